// Command switchyard is the administrator's tool.
package main

import (
	"context"
	"fmt"
	"os"

	"switchyard/internal/daemon"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := daemon.Signals(context.Background())
	defer stop()
	if err := newRoot().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "switchyard:", err)
		stop()
		os.Exit(1)
	}
}

// newRoot makes the tool with all its commands.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "switchyard",
		Short:         "Look after a Switchyard mail cluster",
		Version:       daemon.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(whoCommand(), kickCommand(), drainCommand(), undrainCommand(), forgetCommand(), backendsCommand(), routeCommand(), demoCommand())
	return root
}
