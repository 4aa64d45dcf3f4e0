// Package managesieve lets users keep their Sieve scripts on the server
// (RFC 5804), directly or through proxies that log in for them.
//
//	S: "IMPLEMENTATION" "Switchyard"
//	S: "SASL" "PLAIN LOGIN"
//	S: "SIEVE" "body copy date …"
//	S: OK "ready"
//	C: AUTHENTICATE "PLAIN" "AGFubmEAc2VzYW1l"
//	S: OK
//	C: PUTSCRIPT "main" {18+}
//	C: require "fileinto";
//	S: NO "line 2, column 1: …"
//
// A script that is wrong is refused with the line and the column, and the one
// that it would have replaced stays.
package managesieve

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"switchyard/backend/access"

	"go.uber.org/zap"
)

// Options for New. The zero value works: no TLS, and so no logins either.
type Options struct {
	// TLS is the configuration of STARTTLS and of ServeTLS. Nil: neither.
	TLS *tls.Config

	// AllowClear lets users log in without TLS. A proxy's secret is refused in
	// clear whatever this says.
	AllowClear bool

	// LoginTime bounds the time from the connection to the login. Zero means
	// one minute.
	LoginTime time.Duration

	// Idle is how long a logged-in session may say nothing, and how long one
	// write to it may take. Zero means 30 minutes, the least that RFC 5804
	// §1.2 allows.
	Idle time.Duration

	// Node names this node in the log.
	Node string

	Logger *zap.Logger // nil: none
}

func (o Options) withDefaults() Options {
	if o.LoginTime == 0 {
		o.LoginTime = time.Minute
	}
	if o.Idle == 0 {
		o.Idle = 30 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

// Server serves the connections of listeners that share its options. It is safe
// for concurrent use.
type Server struct {
	gate *access.Gate
	o    Options
}

// New makes a server. The gate decides about logins.
func New(gate *access.Gate, o Options) *Server { return &Server{gate, o.withDefaults()} }

// Serve serves one connection that begins in clear, until its session ends, and
// closes it. It is a server.Handler. When ctx ends, the session finishes the
// answer in hand and says goodbye.
func (s *Server) Serve(ctx context.Context, nc net.Conn) { newSession(s, nc).run(ctx, false) }

// ServeTLS is Serve for a connection that begins with TLS.
func (s *Server) ServeTLS(ctx context.Context, nc net.Conn) { newSession(s, nc).run(ctx, true) }
