package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func forgetCommand() *cobra.Command {
	var p proxies
	var what struct {
		User string `json:"user,omitempty"`
		All  bool   `json:"all,omitempty"`
	}
	cmd := &cobra.Command{
		Use:   "forget (USER@DOMAIN | --all)",
		Short: "Make proxies ask the directory anew about an account, or about all",
		Long: `Drop what the proxies remember of an account, a password that was right included,
and end those of its sessions that the directory does not bear out any more: of an
account that is gone, suspended, moved, or has another password as far as the
directory tells. It is for directories without a feed of changes; to end all
sessions of somebody whose password has changed, kick them too.`,
		Example: `  switchyard forget anna@example.com && switchyard kick --user anna@example.com
  switchyard forget --all`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if what.All == (len(args) == 1) {
				return errors.New("say whom: USER@DOMAIN, or --all")
			}
			if what.User = ""; len(args) == 1 {
				what.User = args[0]
			}
			return p.each(cmd, "/forget", what, p.showBegun("asks anew, ends"))
		},
	}
	p.flags(cmd, false)
	cmd.Flags().BoolVar(&what.All, "all", false, "all accounts; their sessions are asked about at a pace")
	return cmd
}
