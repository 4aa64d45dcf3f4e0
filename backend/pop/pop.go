// Package pop serves a store's INBOX by POP3 (RFC 1939), to users and to
// proxies that log in for them.
//
//	S: +OK [XCLIENT] POP3 ready        ([XCLIENT] to trusted proxies only)
//	C: XCLIENT ADDR=192.0.2.7 SESSION=d1b2k3m4n5p6q7r8
//	S: +OK Updated
//	C: AUTH PLAIN <authzid NUL proxy NUL secret, in base64>
//	S: +OK 3 messages
//	C: RETR 1
//	S: +OK 1204 octets
//
// What it promises:
//
//   - One session at a time has a maildrop; a second one gets [IN-USE].
//   - The maildrop does not change while a session has it: numbers, sizes and
//     unique-ids are those of the moment of login. A message that another
//     session (IMAP) expunged meanwhile can no longer be read, and that is all.
//   - DELE takes effect at QUIT and at no other end of a session: not when the
//     connection drops, not when a deadline passes, not at shutdown.
//   - A unique-id is the message's GUID, so it survives restarts, renumbering
//     and a move to another backend.
//   - Sizes are exact: the octets that RETR sends, with every line ending in
//     CRLF and before dot-stuffing (RFC 1939 §11). See lengths.
//
// Extensions: CAPA, PIPELINING, RESP-CODES (RFC 2449), STLS (RFC 2595), SASL
// (RFC 5034), AUTH-RESP-CODE (RFC 3206), UIDL, TOP, and Dovecot's XCLIENT.
package pop

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"switchyard/backend/access"

	"go.uber.org/zap"
)

// Options for New. The zero value works: no TLS, and so no logins either.
type Options struct {
	// TLS is the configuration of STLS and of ServeTLS. Nil: neither.
	TLS *tls.Config

	// AllowClear lets users log in without TLS. A proxy's secret is refused
	// in clear whatever this says.
	AllowClear bool

	// LoginTime bounds the time from the connection to the login.
	// Zero means one minute.
	LoginTime time.Duration

	// Idle is how long a logged-in session may say nothing, and how long one
	// write to it may take. Zero means ten minutes, the least that RFC 1939
	// §3 allows.
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
		o.Idle = 10 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

// Maildrops knows which maildrops are in use. The servers of one node share
// one, each with the options of its own listener. It is safe for concurrent use.
type Maildrops struct {
	lengths *lengths

	mu    sync.Mutex
	inUse map[string]bool // by account
}

// NewMaildrops returns a Maildrops of which none is in use.
func NewMaildrops() *Maildrops {
	return &Maildrops{lengths: newLengths(), inUse: make(map[string]bool)}
}

// take locks an account's maildrop; false when another session has it.
func (m *Maildrops) take(account string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.inUse[account] {
		return false
	}
	m.inUse[account] = true
	return true
}

func (m *Maildrops) release(account string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.inUse, account)
}

// Server serves the connections of listeners that share its options. It is safe
// for concurrent use.
type Server struct {
	*Maildrops
	gate *access.Gate
	o    Options
}

// New makes a server. The gate decides about logins.
func New(gate *access.Gate, drops *Maildrops, o Options) *Server {
	return &Server{Maildrops: drops, gate: gate, o: o.withDefaults()}
}

// Serve serves one connection that begins in clear, until its session ends,
// and closes it. It is a server.Handler. When ctx ends, the session finishes
// the answer in hand and closes without deleting anything.
func (s *Server) Serve(ctx context.Context, nc net.Conn) { newSession(s, nc).run(ctx, false) }

// ServeTLS is Serve for a connection that begins with TLS (port 995).
func (s *Server) ServeTLS(ctx context.Context, nc net.Conn) { newSession(s, nc).run(ctx, true) }
