// Package daemon is the shell that all daemons share: flags, log, signals, the
// announcement of their addresses, and the admin listener. What a daemon does
// is in its own main.
//
// The fields of log lines have fixed keys, so that one query finds a session in
// all tiers:
//
//	session    the session's id, the same from the proxy's first line to the backend's log
//	protocol   imap, pop3, submission, smtp, lmtp
//	user       the account
//	client     the client's own address and port
//	home       the backend that owns the account
//	node       the node that was dialled
//	tls        whether the client's connection is encrypted
//	took       how long, in seconds
//	bytes_in   bytes from the client; bytes_out bytes to it
//	result     how it ended, in one or two words; reason says more
package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Flags are what every daemon takes on its command line.
type Flags struct {
	Config   string
	Check    bool // validate the configuration and exit
	Version  bool
	Ready    string // file to write the listeners' addresses to
	LogLevel zapcore.Level

	levelSet bool // on the command line
}

// Level is how much is logged: what the command line says, else what the
// configuration says, which has checked it, else info.
func (f *Flags) Level(configured string) zapcore.Level {
	if level, err := zapcore.ParseLevel(configured); err == nil && !f.levelSet {
		return level
	}
	return f.LogLevel
}

// ParseFlags reads a command line. Each of more may add flags of the daemon's
// own. It returns flag.ErrHelp when help was asked for and printed.
func ParseFlags(name string, args []string, out io.Writer, more ...func(*flag.FlagSet)) (Flags, error) {
	var f Flags
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(out)
	fs.StringVar(&f.Config, "config", "/etc/switchyard/switchyard.toml", "configuration `file`")
	fs.BoolVar(&f.Check, "check", false, "check the configuration and exit")
	fs.BoolVar(&f.Version, "version", false, "print the version and exit")
	fs.StringVar(&f.Ready, "ready", "", "write the listeners' addresses to this `file`, as JSON, once they accept connections")
	fs.TextVar(&f.LogLevel, "log-level", zapcore.InfoLevel, "`level`: debug, info, warn or error; the configuration's log_level when not given")
	for _, add := range more {
		add(fs)
	}
	if err := fs.Parse(args); err != nil {
		return f, err
	}
	fs.Visit(func(one *flag.Flag) { f.levelSet = f.levelSet || one.Name == "log-level" })
	if fs.NArg() > 0 {
		return f, fmt.Errorf("%s takes no arguments, only flags: %q", name, fs.Args())
	}
	return f, nil
}

// Version names the build: the module's version or the commit it was made
// from.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(12, len(s.Value))]
		}
	}
	return info.Main.Version
}

// NewLogger makes the daemon's log: one JSON object a line, to standard error.
// The level can be changed while it runs.
func NewLogger(level zapcore.Level) (*zap.Logger, zap.AtomicLevel) {
	atomic := zap.NewAtomicLevelAt(level)
	config := zap.NewProductionEncoderConfig()
	config.TimeKey = "time"
	config.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	config.EncodeDuration = zapcore.SecondsDurationEncoder
	core := zapcore.NewCore(zapcore.NewJSONEncoder(config), zapcore.Lock(os.Stderr), atomic)
	return zap.New(core), atomic
}

// Signals returns a context that ends at SIGINT or SIGTERM. A second signal
// ends the process at once.
func Signals(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// Listener is an open socket with the name under which it is announced.
type Listener struct {
	Name string
	net.Listener
}

// SyscallConn implements syscall.Conn where the listener does.
func (l Listener) SyscallConn() (syscall.RawConn, error) {
	sc, ok := l.Listener.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return sc.SyscallConn()
}

// Listen opens a socket. The name ("imap", "admin") also stands in the error.
func Listen(name, address string) (Listener, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return Listener{}, fmt.Errorf("listen for %s: %w", name, err)
	}
	return Listener{Name: name, Listener: ln}, nil
}

// Announcement is what a daemon writes once it accepts connections.
type Announcement struct {
	PID       int                 `json:"pid"`
	Listeners map[string][]string `json:"listeners"` // addresses by name
}

// Announce writes the announcement to path, whole or not at all; an empty path
// announces nothing.
func Announce(path string, listeners []Listener) error {
	if path == "" {
		return nil
	}
	a := Announcement{PID: os.Getpid(), Listeners: make(map[string][]string)}
	for _, l := range listeners {
		a.Listeners[l.Name] = append(a.Listeners[l.Name], l.Addr().String())
	}
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".ready-*")
	if err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(append(b, '\n')); err != nil {
		f.Close()
		return fmt.Errorf("announce: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	return nil
}
