package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"switchyard/router"

	"github.com/spf13/cobra"
)

// selection is which sessions a command is about.
type selection struct {
	Session  string `json:"session,omitempty"`
	User     string `json:"user,omitempty"`
	Client   string `json:"client,omitempty"`
	Backend  string `json:"backend,omitempty"`
	Node     string `json:"node,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

func (s *selection) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.Session, "session", "", "the session with this `id`")
	f.StringVar(&s.User, "user", "", "sessions of this `account`")
	f.StringVar(&s.Client, "client", "", "sessions from this `address` or network")
	f.StringVar(&s.Backend, "backend", "", "sessions on this `backend`")
	f.StringVar(&s.Node, "node", "", "sessions on this `node`")
	f.StringVar(&s.Protocol, "protocol", "", "sessions of this `protocol`")
}

func (s *selection) query() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{
		"session": s.Session, "user": s.User, "client": s.Client, "backend": s.Backend, "node": s.Node, "protocol": s.Protocol,
	} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q
}

func whoCommand() *cobra.Command {
	var p proxies
	var s selection
	limit := 1000
	cmd := &cobra.Command{
		Use:   "who",
		Short: "List live sessions",
		Example: `  switchyard who --proxy 127.0.0.1:9000
  switchyard who --backend b1 --protocol imap --limit 20`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := s.query()
			q.Set("limit", strconv.Itoa(limit))
			return p.each(cmd, "/sessions?"+q.Encode(), nil, p.showSessions)
		},
	}
	p.flags(cmd, false)
	s.flags(cmd)
	cmd.Flags().IntVar(&limit, "limit", limit, "list the first `n`, the oldest first")
	return cmd
}

// showSessions prints the answer to GET /sessions.
func (p *proxies) showSessions(proxy string, got []byte) error {
	var list struct {
		Total    int           `json:"total"`
		Sessions []router.Live `json:"sessions"`
	}
	if err := json.Unmarshal(got, &list); err != nil {
		return err
	}
	fmt.Fprintf(p.out, "%s: %d sessions\n", proxy, list.Total)
	if len(list.Sessions) == 0 {
		return nil
	}
	t := newTable("user", "protocol", "client", "backend", "node", "age", "in", "out", "state", "session")
	for _, l := range list.Sessions {
		state := l.State.String()
		if l.Ending {
			state = "ending"
		}
		t.row(l.User, l.Protocol, l.Client.String(), l.Home, l.Node, age(time.Since(l.Since)), size(l.Bytes.In), size(l.Bytes.Out), state, l.ID)
	}
	t.print(p.out)
	if rest := list.Total - len(list.Sessions); rest > 0 {
		fmt.Fprintf(p.out, "… and %d more: raise --limit\n", rest)
	}
	return nil
}

// size writes bytes for people.
func size(n int64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return strconv.FormatInt(n, 10)
	}
	v, unit := float64(n)/1000, 0
	for v >= 999.5 && unit < len(units)-1 {
		v, unit = v/1000, unit+1
	}
	if v < 10 {
		return fmt.Sprintf("%.1f%c", v, units[unit])
	}
	return fmt.Sprintf("%.0f%c", v, units[unit])
}

// age writes a duration for people, in its two largest units.
func age(d time.Duration) string {
	d = d.Round(time.Second)
	days, hours, minutes, seconds := int(d.Hours())/24, int(d.Hours())%24, int(d.Minutes())%60, int(d.Seconds())%60
	switch {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, hours)
	case hours > 0:
		return fmt.Sprintf("%dh%dm", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%dm%ds", minutes, seconds)
	}
	return fmt.Sprintf("%ds", seconds)
}

func kickCommand() *cobra.Command {
	var p proxies
	var s selection
	cmd := &cobra.Command{
		Use:   "kick",
		Short: "End live sessions: of an account, an address, a backend or a node",
		Long: `End the sessions that all flags describe. Each is told goodbye in its
protocol's words; many are ended at a pace, so that those who log in again do not
arrive together. An account that must stay out has to be suspended first.`,
		Example: "  switchyard kick --user anna@example.com --reason 'password stolen'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.dryRun {
				return p.each(cmd, "/sessions?"+s.query().Encode(), nil, p.showSessions)
			}
			return p.each(cmd, "/kick", s, p.showBegun("ends"))
		},
	}
	p.flags(cmd, true)
	s.flags(cmd)
	cmd.Flags().StringVar(&s.Reason, "reason", "", "why, for the log")
	return cmd
}

// showBegun prints how many sessions an order concerns.
func (p *proxies) showBegun(what string) func(string, []byte) error {
	return func(proxy string, got []byte) error {
		var begun struct {
			Sessions int `json:"sessions"`
		}
		if err := json.Unmarshal(got, &begun); err != nil {
			return err
		}
		fmt.Fprintf(p.out, "%s: %s %d sessions\n", proxy, what, begun.Sessions)
		return nil
	}
}
