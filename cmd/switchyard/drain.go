package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"

	"switchyard/router"

	"github.com/spf13/cobra"
)

// place is what is drained: a backend's node, a whole backend, or the proxy.
type place struct {
	Backend string `json:"backend,omitempty"`
	Node    string `json:"node,omitempty"`
	Proxy   bool   `json:"proxy,omitempty"`
}

// read takes "self", a backend, or backend and node.
func (d *place) read(args []string) error {
	if d.Proxy {
		if len(args) > 0 {
			return errors.New("--self drains the proxy itself: name no backend beside it")
		}
		return nil
	}
	if len(args) == 0 {
		return errors.New("say what: a BACKEND, a BACKEND and its NODE, or --self for the proxy itself")
	}
	d.Backend = args[0]
	if len(args) > 1 {
		d.Node = args[1]
	}
	return nil
}

func drainCommand() *cobra.Command {
	var p proxies
	var d place
	cmd := &cobra.Command{
		Use:   "drain (BACKEND [NODE] | --self)",
		Short: "Take a node, a backend or the proxy itself out of service",
		Long: `Send new sessions elsewhere and end the live ones at a pace. A drained node
stays out of service until undrain, or until the proxy starts again. A drained
proxy says so to its load balancer (/readyz) and takes no logins.`,
		Example: `  switchyard drain b1 b1a --dry-run
  switchyard drain --self`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := d.read(args); err != nil {
				return err
			}
			if p.dryRun {
				s := selection{Backend: d.Backend, Node: d.Node}
				return p.each(cmd, "/sessions?"+s.query().Encode(), nil, p.showSessions)
			}
			return p.each(cmd, "/drain", d, p.showBegun("drains, ends"))
		},
	}
	p.flags(cmd, true)
	cmd.Flags().BoolVar(&d.Proxy, "self", false, "the proxy itself")
	return cmd
}

func undrainCommand() *cobra.Command {
	var p proxies
	var d place
	cmd := &cobra.Command{
		Use:   "undrain (BACKEND [NODE] | --self)",
		Short: "Take it back into service",
		Args:  cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := d.read(args); err != nil {
				return err
			}
			if p.dryRun {
				return p.each(cmd, "/backends", nil, p.showBackends)
			}
			return p.each(cmd, "/undrain", d, func(proxy string, _ []byte) error {
				fmt.Fprintf(p.out, "%s: in service again\n", proxy)
				return nil
			})
		},
	}
	p.flags(cmd, true)
	cmd.Flags().BoolVar(&d.Proxy, "self", false, "the proxy itself")
	return cmd
}

func backendsCommand() *cobra.Command {
	var p proxies
	cmd := &cobra.Command{
		Use:   "backends",
		Short: "Show the backends as proxies see them: nodes, health, sessions",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.each(cmd, "/backends", nil, p.showBackends)
		},
	}
	p.flags(cmd, false)
	return cmd
}

// showBackends prints the answer to GET /backends.
func (p *proxies) showBackends(proxy string, got []byte) error {
	var said struct {
		Draining bool `json:"draining"`
		Backends []struct {
			router.Backend
			Sessions map[string]int `json:"sessions"`
		} `json:"backends"`
	}
	if err := json.Unmarshal(got, &said); err != nil {
		return err
	}
	state := ""
	if said.Draining {
		state = " (drained, or not ready)"
	}
	fmt.Fprintf(p.out, "%s%s\n", proxy, state)
	t := newTable("backend", "node", "state", "sessions", "connected", "failed", "trouble")
	for _, b := range said.Backends {
		for _, n := range b.Nodes {
			state, trouble := "up", ""
			for _, s := range n.Services {
				if s.Marked {
					state, trouble = "failing", fmt.Sprintf("%s: %s", s.Service, s.Reason)
				}
			}
			if n.Drained {
				state = "drained"
			}
			t.row(b.Name, n.Name, state, fmt.Sprint(b.Sessions[n.Name]), fmt.Sprint(n.Connected), fmt.Sprint(n.Failed), trouble)
		}
	}
	t.print(p.out)
	return nil
}

func routeCommand() *cobra.Command {
	root := &cobra.Command{Use: "route", Short: "See where mail and logins go"}
	var p proxies
	cmd := &cobra.Command{
		Use:   "explain USER@DOMAIN",
		Short: "Show each step from an address to its backend, and what decided it; nobody is logged in",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.each(cmd, "/route?"+url.Values{"user": args}.Encode(), nil, func(proxy string, got []byte) error {
				var e router.Explanation
				if err := json.Unmarshal(got, &e); err != nil {
					return err
				}
				fmt.Fprintf(p.out, "%s\n%s", proxy, e.String())
				return nil
			})
		},
	}
	p.flags(cmd, false)
	root.AddCommand(cmd)
	return root
}
