// Package imap serves a store's mail by IMAP4rev1 and IMAP4rev2 (RFC 3501,
// RFC 9051) and the extensions that Server.capabilities lists.
//
// One session is one goroutine that takes one command at a time, in order. A
// command is read by package syntax, run by one method, and answered through
// one buffer that is sent when the command is over. A session that has a
// mailbox open keeps the list of messages as its client knows it (selected);
// between commands it compares that list with the mailbox and tells the client
// the difference.
//
// Memory before login is bounded: the connection's two buffers of 4 KiB and
// one command of at most 64 KiB, lines and literals together.
package imap

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"time"

	"switchyard/backend/access"
	"switchyard/backend/imap/search"
	"switchyard/backend/textindex"
	"switchyard/internal/origin"
	"switchyard/internal/tlsconf"
	"switchyard/internal/wire"

	"go.uber.org/zap"
)

// Gate decides logins; *access.Gate is one.
type Gate interface {
	Login(ctx context.Context, l access.Login) (access.Granted, error)
	Trusted(peer netip.Addr, tls bool) bool
}

// Options for New. The zero value serves without TLS.
type Options struct {
	TLS  *tls.Config  // needed unless Mode is Off
	Mode tlsconf.Mode // when TLS begins

	// RequireTLS refuses passwords on connections in clear.
	RequireTLS bool

	Hostname string // named in the greeting; "": none

	MaxAppend int64  // bytes of one appended message; zero: 64 MiB
	SpoolDir  string // for messages on their way in; "": the system's

	// LoginTimeout is how long a connection may live without a login,
	// whatever it sends. Zero: 1 minute.
	LoginTimeout time.Duration

	// IdleTimeout is how long a logged-in session may be silent; RFC 9051
	// §5.4 wants at least 30 minutes. Zero: 31 minutes.
	IdleTimeout time.Duration

	// DataTimeout is how long a single read inside a command, or a single
	// write, may take. Zero: 2 minutes.
	DataTimeout time.Duration

	// SearchCache is how many bytes of memory all sessions together spend on
	// what SORT, THREAD and SEARCH have learnt of messages. Zero: 32 MiB.
	SearchCache int64

	// Index answers searches for texts; nil: messages are read for them.
	Index *textindex.Index

	// NoCompress leaves out COMPRESS=DEFLATE, which costs the server some CPU
	// and 50 KiB a session.
	NoCompress bool

	Logger *zap.Logger // nil: none
}

// The bounds that no option changes.
const (
	maxCommandBefore = 64 << 10 // bytes of one command before login, literals included
	maxLine          = 64 << 10 // bytes of a line after login
	maxCommand       = 1 << 20  // bytes of one command after login, without appended messages
	maxBadBefore     = 3        // mistakes before login, then BYE
	maxBad           = 100      // mistakes after login, then BYE
	maxFailedLogins  = 3        // then BYE
)

func (o *Options) fill() {
	if o.MaxAppend == 0 {
		o.MaxAppend = 64 << 20
	}
	if o.LoginTimeout == 0 {
		o.LoginTimeout = time.Minute
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = 31 * time.Minute
	}
	if o.DataTimeout == 0 {
		o.DataTimeout = 2 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
}

// Server serves sessions. It is safe for concurrent use.
type Server struct {
	gate     Gate
	o        Options
	commands map[string]command
	cache    *search.Cache
}

// New makes a server.
func New(gate Gate, o Options) *Server {
	o.fill()
	return &Server{gate: gate, o: o, commands: commands(), cache: search.NewCache(o.SearchCache)}
}

// Serve serves one connection until its session ends, and closes it. When ctx
// ends, the answer in hand is finished, and the client gets a BYE.
func (srv *Server) Serve(ctx context.Context, nc net.Conn) {
	s := &session{
		srv:   srv,
		conn:  newTransport(wire.NewConn(nc)),
		id:    origin.NewSession(time.Now()),
		start: time.Now(),
	}
	s.in.session = s
	s.out = newWriter(s.conn)
	s.peer = s.conn.RemoteAddr()
	s.client = s.peer
	defer s.conn.Close()
	defer s.closeBox()
	reason := s.run(ctx)
	s.bye(reason)
	s.logEnd(reason)
}

// logEnd writes the session's one line.
func (s *session) logEnd(reason *ending) {
	fields := []zap.Field{
		zap.String("session", s.id),
		zap.String("protocol", "imap"),
		zap.String("user", s.account),
		zap.Stringer("client", s.client),
		zap.Duration("took", time.Since(s.start)),
		zap.Int64("bytes_in", s.conn.BytesRead()),
		zap.Int64("bytes_out", s.conn.BytesWritten()),
		zap.Bool("tls", s.conn.TLS() != nil),
		zap.String("reason", reason.reason),
	}
	if s.proxied {
		fields = append(fields, zap.Bool("proxied", true), zap.Stringer("proxy", s.peer))
	}
	if reason.err != nil {
		fields = append(fields, zap.Error(reason.err))
	}
	level := zap.InfoLevel
	if s.probed && s.account == "" {
		level = zap.DebugLevel // there is one every few seconds
	}
	s.srv.o.Logger.Log(level, "session", fields...)
}
