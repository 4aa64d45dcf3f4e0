// Command peers compares proxyd with nginx's mail proxy, Dovecot's login
// proxy, Perdition and HAProxy: the same clients, the same stub of a backend,
// one proxy after the other, and a table in Markdown.
//
//	go run ./bench/peers                              everything, five rounds
//	go run ./bench/peers -quick                       about two minutes
//	go run ./bench/peers -only imap-plain -peers nginx,proxyd -rounds 3
//
// The proxies run on one core with one worker, clients and stub on another;
// what counts is the CPU time of the proxy's processes and their memory, not
// the clock. A round measures each work with each proxy, side by side, so that
// what else the machine does falls on all of them; the table has the medians.
//
// It talks to loopback addresses only, ends the processes that it started and
// no others, and leaves nothing behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"switchyard/bench/peers/load"
	"switchyard/bench/peers/stub"
)

// roleVariable makes the program another part of itself.
const (
	roleVariable = "BENCH_PEERS_ROLE"
	roleStub     = "stub"
	roleLoad     = "load"
	roleInside   = "inside" // the comparison, in a network of its own
)

func main() {
	err := run(os.Getenv(roleVariable))
	if err == nil {
		return
	}
	// The part inside has said why it failed.
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "peers:", err)
	}
	os.Exit(1)
}

func run(role string) error {
	switch role {
	case roleStub:
		return stub.Serve(os.Stdin, os.Stdout)
	case roleLoad:
		return load.Serve(os.Stdin, os.Stdout)
	}
	o, err := parseFlags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, o.limit, fmt.Errorf("the time limit of %v is over", o.limit))
	defer cancel()
	if role == roleInside {
		return inside(ctx, o)
	}
	return outside(ctx, o)
}

// outside makes the directory and proxyd, which may need the network to be
// built, and has the comparison done.
func outside(ctx context.Context, o *options) error {
	dir, err := os.MkdirTemp("", "bench-peers-")
	if err != nil {
		return err
	}
	if o.keep {
		fmt.Fprintln(os.Stderr, "files are in", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	// The proxies that give up root read their files here.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	o.dir = dir
	if o.proxyd == "" && slices.ContainsFunc(o.peers, func(p peer) bool { return p.name == ours }) {
		if o.proxyd, err = buildProxyd(ctx, dir); err != nil {
			return err
		}
	}
	if !o.ownNetwork {
		return inside(ctx, o)
	}
	return inOwnNetwork(ctx, append([]string{"-dir", dir, "-proxyd", o.proxyd}, os.Args[1:]...))
}

// inside does the comparison and prints the table.
func inside(ctx context.Context, o *options) error {
	if o.ownNetwork {
		if err := setUpNetwork(ctx); err != nil {
			return err
		}
	}
	results, err := compare(ctx, o)
	if results != nil {
		fmt.Print(results.markdown())
	}
	return err
}

// options is what the command line says.
type options struct {
	works  []work
	peers  []peer
	proxyd string // the binary; "" builds it
	dir    string // of everything that is written

	rounds      int
	idleRounds  int           // of these with idle sessions: memory varies little
	duration    time.Duration // of one run of logins
	concurrency int           // clients at the same time
	megabytes   int           // moved by one run of bulk
	few, many   int           // idle sessions between which the slope is taken
	settle      time.Duration // the longest wait for idle memory to come to rest
	limit       time.Duration // for everything
	proxyCore   string
	loadCore    string
	ownNetwork  bool
	keep        bool
}

func parseFlags(args []string) (*options, error) {
	var o options
	f := flag.NewFlagSet("peers", flag.ContinueOnError)
	quick := f.Bool("quick", false, "one round of short runs: does it work, is it far off?")
	only := f.String("only", "", "these works only, separated by commas: "+strings.Join(workNames(), " "))
	which := f.String("peers", "", "these proxies only, separated by commas: "+strings.Join(peerNames(), " "))
	f.StringVar(&o.proxyd, "proxyd", "", "the `binary` of proxyd to measure; built from the tree when empty")
	f.IntVar(&o.rounds, "rounds", 5, "interleaved rounds")
	f.IntVar(&o.idleRounds, "idle-rounds", 3, "rounds with idle sessions, of which memory varies little")
	f.DurationVar(&o.duration, "duration", 3*time.Second, "of one run of logins")
	f.IntVar(&o.concurrency, "concurrency", 16, "clients at the same time")
	f.IntVar(&o.megabytes, "megabytes", 512, "moved by one run of bulk")
	f.IntVar(&o.few, "few", 1000, "idle sessions, the lower end of the slope")
	f.IntVar(&o.many, "many", 9000, "idle sessions, the upper end of the slope")
	f.DurationVar(&o.settle, "settle", 20*time.Second, "the longest wait for idle memory to come to rest")
	f.DurationVar(&o.limit, "limit", 2*time.Hour, "for everything")
	f.StringVar(&o.proxyCore, "proxy-core", "0", "where the proxies run")
	f.StringVar(&o.loadCore, "load-core", "1", "where clients and stub run")
	f.BoolVar(&o.ownNetwork, "own-network", true, "run in a network namespace with nothing but a loopback; needs root")
	f.StringVar(&o.dir, "dir", "", "where everything is written; the program says it to itself")
	f.BoolVar(&o.keep, "keep", false, "keep the directory with the configuration files")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if *quick {
		set := make(map[string]bool)
		f.Visit(func(f *flag.Flag) { set[f.Name] = true })
		o.hurry(set)
	}
	var err error
	if o.works, err = choose(*only, allWorks(), func(w work) string { return w.name }); err != nil {
		return nil, fmt.Errorf("-only: %w", err)
	}
	if o.peers, err = choose(*which, allPeers(), func(p peer) string { return p.name }); err != nil {
		return nil, fmt.Errorf("-peers: %w", err)
	}
	if o.proxyd != "" {
		if o.proxyd, err = filepath.Abs(o.proxyd); err != nil {
			return nil, err
		}
	}
	if o.rounds < 1 || o.concurrency < 1 || o.megabytes < 1 || o.few < 1 || o.many <= o.few {
		return nil, errors.New("rounds, concurrency, megabytes and few must be positive, and many greater than few")
	}
	return &o, nil
}

// hurry shortens what the command line did not set.
func (o *options) hurry(set map[string]bool) {
	if !set["rounds"] {
		o.rounds = 1
	}
	if !set["duration"] {
		o.duration = time.Second
	}
	if !set["megabytes"] {
		o.megabytes = 128
	}
	if !set["few"] && !set["many"] {
		o.few, o.many = 500, 2500
	}
	if !set["settle"] {
		o.settle = 3 * time.Second
	}
}

// idleSessions are the ends of a proxy's slope.
func (o *options) idleSessions(p peer) (few, many int) {
	if p.forks {
		return max(1, o.few/20), max(2, o.many/20)
	}
	return o.few, o.many
}

// choose picks the named ones of all, in the order of all; all for no name.
func choose[T any](names string, all []T, name func(T) string) ([]T, error) {
	if names == "" {
		return all, nil
	}
	wanted := strings.Split(names, ",")
	var out []T
	for _, x := range all {
		if i := slices.Index(wanted, name(x)); i >= 0 {
			out = append(out, x)
			wanted = slices.Delete(wanted, i, i+1)
		}
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("unknown name %q", wanted[0])
	}
	return out, nil
}
