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
	root := &cobra.Command{
		Use:           "switchyard",
		Short:         "Look after a Switchyard mail cluster",
		Version:       daemon.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(demoCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "switchyard:", err)
		stop()
		os.Exit(1)
	}
}
