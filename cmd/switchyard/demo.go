package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"switchyard/internal/harness"

	"github.com/spf13/cobra"
)

// roundTripTimeout bounds the demo's own work, not the time it stays up.
const roundTripTimeout = 3 * time.Minute

func demoCommand() *cobra.Command {
	var d demo
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start a whole cluster on this machine and send mail through it",
		Long: `Start one tcpauthd, two backends and two proxies on loopback, with
certificates and accounts of their own; send the sample messages through one
proxy by SMTP, read every one back through the other by IMAP and by POP3, and
print what went where. Then the cluster stays up for a mail client of yours,
until Ctrl-C.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.out = cmd.OutOrStdout()
			return d.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&d.dir, "dir", "", "keep everything in this `directory` (default: a temporary one, removed at the end)")
	cmd.Flags().BoolVar(&d.once, "once", false, "end after the round trip")
	cmd.Flags().StringVar(&d.messages, "messages", "testdata/messages", "`directory` of the messages to send")
	return cmd
}

// demo is one run.
type demo struct {
	dir, messages string
	once          bool
	out           io.Writer
}

// run starts the cluster, makes the round trip and stays up.
func (d *demo) run(ctx context.Context) (err error) {
	messages, err := loadMessages(d.messages)
	if err != nil {
		return fmt.Errorf("read the sample messages: %w", err)
	}
	dir, cleanUp, err := d.directory()
	if err != nil {
		return err
	}
	defer cleanUp()
	bin, err := os.Executable()
	if err != nil {
		return err
	}

	began := time.Now()
	workCtx, cancel := context.WithTimeout(ctx, roundTripTimeout)
	defer cancel()
	cluster, err := harness.StartCluster(workCtx, harness.Spec{
		Dir:      dir,
		Bin:      filepath.Dir(bin),
		Accounts: demoAccounts(),
		Progress: func(step string) { fmt.Fprintf(d.out, "%6.1fs  %s\n", time.Since(began).Seconds(), step) },
	})
	if err != nil {
		return fmt.Errorf("start the cluster: %w", err)
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()

	trip := &roundTrip{cluster: cluster, messages: messages, progress: cluster.Spec.Progress}
	if err := trip.run(workCtx); err != nil {
		return fmt.Errorf("round trip failed: %w\nthe logs are in %s", err, dir)
	}
	fmt.Fprintln(d.out)
	if err := trip.table(workCtx, d.out); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\n%d messages went in through %s and came back byte for byte through %s, by IMAP and by POP3, in %.1f s.\n",
		len(messages), cluster.Proxies[0].Name, cluster.Proxies[1].Name, time.Since(began).Seconds())
	if d.once {
		return nil
	}
	d.invite(cluster)
	<-ctx.Done()
	fmt.Fprintln(d.out, "\nstopping")
	return nil
}

// directory makes the directory of the run.
func (d *demo) directory() (dir string, cleanUp func(), err error) {
	if d.dir != "" {
		if err := os.MkdirAll(d.dir, 0o700); err != nil {
			return "", nil, err
		}
		if entries, err := os.ReadDir(d.dir); err != nil || len(entries) > 0 {
			return "", nil, errors.Join(err, fmt.Errorf("%s is not empty: the demo makes a cluster of its own, give it a new directory", d.dir))
		}
		return d.dir, func() {}, nil
	}
	dir, err = os.MkdirTemp("", "switchyard-demo-")
	return dir, func() { os.RemoveAll(dir) }, err
}

// demoAccounts are spread over both backends; one has no home and so lives on
// the default backend.
func demoAccounts() []harness.Account {
	homes := []struct{ name, home string }{
		{"anna", "b1"}, {"bert", "b2"}, {"cora", "b1"}, {"dave", "b2"}, {"edda", ""},
	}
	var out []harness.Account
	for _, h := range homes {
		out = append(out, harness.Account{Name: h.name + "@example.test", Password: strings.ToLower(rand.Text()[:10]), Home: h.home})
	}
	return out
}

// invite prints what a mail client needs.
func (d *demo) invite(c *harness.Cluster) {
	fmt.Fprintf(d.out, "\nThe cluster is up until Ctrl-C. Point a mail client at either proxy (certificates are signed by %s):\n\n", c.CA.File)
	t := newTable("proxy", "imap", "imaps", "pop3", "pop3s", "submission", "submissions", "smtp")
	for _, p := range c.Proxies {
		t.row(p.Name, p.Addr["imap"], p.Addr["imaps"], p.Addr["pop3"], p.Addr["pop3s"], p.Addr["submission"], p.Addr["submissions"], p.Addr["smtp"])
	}
	t.print(d.out)
	fmt.Fprintln(d.out)
	t = newTable("account", "password", "home")
	for _, a := range c.Spec.Accounts {
		home := a.Home
		if home == "" {
			home = c.Spec.DefaultBackend + " (default)"
		}
		t.row(a.Name, a.Password, home)
	}
	t.print(d.out)
	fmt.Fprintf(d.out, "\nLogs and configuration: %s\n", c.Spec.Dir)
}
