package tcpauth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"switchyard/internal/server"
	"switchyard/internal/wire"
	"switchyard/lookup"
	"switchyard/lookup/internal/authent"
	"switchyard/lookup/internal/netwin"
)

// RefusedError says that what was asked can never be done, and why: the grammar
// cannot carry it, or the server refused it for good.
type RefusedError = netwin.RefusedError

// Database is what a server serves. Beside those of lookup.Directory, the
// errors are RefusedError for what can never be done and lookup.ErrAbsent for
// a user who does not exist; any other error means unavailable. Of one that is a
// lookup.KeyHolder too, the keys are told to who may have them.
type Database interface {
	lookup.Directory

	// Set adds a user or changes one. A nil password leaves the password as
	// it is, and is for a new name if it has the label "alias"; labels are merged, one with an empty value is removed. The
	// change is durable when Set returns.
	Set(ctx context.Context, name string, password *string, labels map[string]string) (added bool, err error)

	// Delete removes a user, durably.
	Delete(ctx context.Context, name string) error

	// Search finds names: at most max of them (zero: all) beginning with the
	// from-th, and how many match and how many users there are altogether.
	Search(ctx context.Context, pattern string, from, max int) (names []string, found, total int, err error)
}

// Immediate is a Database whose lookups never wait: they are answered without
// a goroutine, and without taking the record apart.
type Immediate interface {
	// AppendAnswer appends the labels of an account as the protocol writes
	// them: label="value" with a space between two, in the order of the
	// labels, nothing that the protocol cannot carry. Errors as Lookup's.
	AppendAnswer(dst []byte, name string) ([]byte, error)
}

// Feeder is a Database that tells of changes. One that is a lookup.Watcher and
// no Feeder is taken to be live from the moment at which Watch is called.
type Feeder interface {
	// Feed is lookup.Watcher's Watch, and calls live once no later change can
	// be missed.
	Feed(ctx context.Context, live func(), changed func(lookup.Change)) error
}

// Source is a Database that replicas can copy and follow.
type Source interface {
	// Stream sends everything, or what is new since from, and then changes as
	// they happen, until ctx ends or the follower returns an error.
	Stream(ctx context.Context, from *netwin.Mark, to netwin.Follower) error
}

// ServerOptions for NewServer. The zero value works: it serves this machine.
type ServerOptions struct {
	// Secret that clients must show before anything else is answered. Empty
	// means that none is needed. It crosses the network in clear unless TLS
	// is set.
	Secret string

	// TLS makes every connection begin with a TLS handshake. Nil means clear
	// text.
	TLS *tls.Config

	// Networks that clients may connect from. Empty means loopback only.
	Networks []netip.Prefix

	// ReadOnly refuses set and del.
	ReadOnly bool

	// MaxConnections bounds the connections; more wait in the kernel's
	// queue. Zero means 4,096.
	MaxConnections int

	// Idle is how long a connection may stay silent. Zero means 30 minutes.
	Idle time.Duration

	// Early is how long a client may take for the TLS handshake and to show
	// the secret, together, and for taking a part of an answer. Zero means 10
	// seconds.
	Early time.Duration

	// Request is how long the database may take for one command before it is
	// answered with -DEAD. Zero means 10 seconds; a search gets ten times as
	// long.
	Request time.Duration

	// Replicas are networks that may copy the whole database, password hashes
	// and all. Empty means none.
	Replicas []netip.Prefix

	// Version is told to clients that ask; State returns further words for
	// them, name=value each. Nil means none.
	Version string
	State   func() []string

	Logger *zap.Logger // nil: none
}

// Server serves a database.
type Server struct {
	db     Database
	opts   ServerOptions
	secret [sha256.Size]byte

	immediate Immediate // nil: db is none
	feeder    Feeder
	source    Source

	mechanisms *mechanisms // nil: db holds no keys

	inFlight    atomic.Int64 // tagged requests that wait for db
	connections atomic.Int64
	counts      [len(counted)]counts
}

// maxSecret is the longest secret: with its command it fits an early line.
const maxSecret = 512

// NewServer makes a server of db.
func NewServer(db Database, opts ServerOptions) (*Server, error) {
	if err := checkSecret(opts.Secret); err != nil {
		return nil, err
	}
	if len(opts.Networks) == 0 {
		opts.Networks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	}
	if opts.MaxConnections == 0 {
		opts.MaxConnections = 4096
	}
	if opts.Idle == 0 {
		opts.Idle = 30 * time.Minute
	}
	if opts.Early == 0 {
		opts.Early = 10 * time.Second
	}
	if opts.Request == 0 {
		opts.Request = 10 * time.Second
	}
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	s := &Server{db: db, opts: opts, secret: sha256.Sum256([]byte(opts.Secret))}
	s.immediate, _ = db.(Immediate)
	s.source, _ = db.(Source)
	if holder, ok := db.(lookup.KeyHolder); ok {
		s.mechanisms = newMechanisms(holder)
	}
	if w, ok := db.(lookup.Watcher); ok {
		s.feeder = watched{w}
	}
	if f, ok := db.(Feeder); ok {
		s.feeder = f
	}
	return s, nil
}

// watched makes a Feeder of a lookup.Watcher.
type watched struct{ lookup.Watcher }

func (w watched) Feed(ctx context.Context, live func(), changed func(lookup.Change)) error {
	live()
	return w.Watch(ctx, changed)
}

func checkSecret(secret string) error {
	if len(secret) > maxSecret {
		return fmt.Errorf("tcpauth: the secret is longer than %d bytes", maxSecret)
	}
	if err := authent.Carriable("the secret", secret, false); err != nil {
		return fmt.Errorf("tcpauth: %w", err)
	}
	return nil
}

// Serve answers connections from ln until ctx ends; then the answers under
// way are finished, and it returns nil when every connection is closed. It
// returns an error only if ln fails for good.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return server.Run(ctx, ln, server.Options{MaxSessions: s.opts.MaxConnections, Logger: s.opts.Logger}, s.handle)
}

// ServeModule answers one client on a pair of streams until it quits, closes in
// or ctx ends: as NetWin's authent modules do on their standard input and
// output. Neither secret nor TLS nor network is asked for. It closes neither
// stream; when ctx ends, a read of in that is under way is left behind.
func (s *Server) ServeModule(ctx context.Context, in io.Reader, out io.Writer) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(server.ErrShutdown)
	s.serve(ctx, newPair(in, out), true)
}

// handle is one connection's life.
func (s *Server) handle(ctx context.Context, nc net.Conn) { s.serve(ctx, nc, false) }

// serve is one connection's life, and one line in the log.
func (s *Server) serve(ctx context.Context, nc net.Conn, trusted bool) {
	conn := wire.NewConn(nc)
	defer conn.Close()
	s.connections.Add(1)
	defer s.connections.Add(-1)
	sess := &session{
		server: s, conn: conn, out: newOutlet(conn, s.opts.Early), client: conn.RemoteAddr(),
		trusted: trusted, needSecret: s.opts.Secret != "" && !trusted,
	}
	start := time.Now()
	reason := "panic"
	defer func() {
		s.opts.Logger.Info("connection finished",
			zap.Stringer("client", sess.client),
			zap.Duration("took", time.Since(start)),
			zap.Int("requests", sess.requests),
			zap.Int64("bytes_in", conn.BytesRead()),
			zap.Int64("bytes_out", conn.BytesWritten()),
			zap.String("reason", reason))
	}()
	release := conn.Bind(ctx)
	defer release()
	reason = sess.run(ctx)
}

// allowed reports whether a client may connect from this address.
func (s *Server) allowed(client netip.Addr) bool {
	for _, network := range s.opts.Networks {
		if network.Contains(client) {
			return true
		}
	}
	return false
}

// isSecret compares in constant time, whatever the lengths.
func (s *Server) isSecret(shown string) bool {
	sum := sha256.Sum256([]byte(shown))
	return subtle.ConstantTimeCompare(sum[:], s.secret[:]) == 1
}
