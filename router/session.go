package router

import (
	"context"
	"net"
	"net/netip"
	"time"

	"switchyard/internal/origin"
	"switchyard/internal/server"
	"switchyard/internal/tlsconf"
	"switchyard/internal/wire"
	"switchyard/router/splice"

	"go.uber.org/zap"
)

// Session is one client's connection, from accept to close. It belongs to the
// goroutine that runs Protocol.Serve; none of its methods may be called by two
// at once, except Dial and Lookup.
type Session struct {
	ID     string         // one id from here to the backend's log
	Client netip.AddrPort // the client's own address, behind a PROXY header
	Local  netip.AddrPort // the address that the client connected to
	Conn   *wire.Conn     // the client's connection, bound to Serve's context until Join
	Log    *zap.Logger    // with session and client; never gets a secret

	router   *Router
	live     *live
	listener *Listener
	proto    string
	place    *server.Place
	peer     netip.Addr // who speaks to us: the socket's address, or a PROXY header's; invalid when not known
	ttl      int        // proxies that may still follow, this one not counted
	believed bool       // an identity has been taken over already

	witness  *tlsconf.Witness // of the certificate that was shown; nil where nobody wants to know
	admitted func()           // gives the place before login back; may be called twice
	release  func() bool      // ends Conn's bond with the context

	failures int   // rejected logins
	last     error // how the latest login or way to a backend ended
	loggedIn bool
	served   bool // Admit was called

	// handedOver says that the session goes on without us. Its end is reported by
	// live.ended.
	handedOver bool

	// For the session's line in the log. The user is the one that was tried
	// last.
	user, home, node string
	notes            []zap.Field
}

// Listener returns the listener's name, for banners and logs.
func (s *Session) Listener() string { return s.listener.Name }

// Hostname returns what this proxy calls itself.
func (s *Session) Hostname() string { return s.router.o.Hostname }

// TLS reports whether the client's connection is encrypted.
func (s *Session) TLS() bool { return s.Conn.TLS() != nil }

// MayStartTLS reports whether STARTTLS may be offered now.
func (s *Session) MayStartTLS() bool {
	return s.listener.TLS == tlsconf.StartTLS && s.listener.Config != nil && !s.TLS()
}

// StartTLS performs the handshake behind our answer to STARTTLS. When the
// client sent bytes behind its command the error is
// wire.ErrBytesBehindStartTLS and the session must end. All that the client
// said before counts for nothing afterwards (RFC 3207 §4.2, RFC 9051 §6.2.1).
func (s *Session) StartTLS(ctx context.Context) error {
	if err := s.serverTLS(ctx); err != nil {
		return handshakeError(err)
	}
	s.shown(func(l *live) { l.tls = true })
	return nil
}

// shown changes what the registry shows of the session.
func (s *Session) shown(change func(*live)) { s.router.live.update(s.live, change) }

// MayLogin reports whether a password may be sent on this connection as it is.
func (s *Session) MayLogin() bool { return s.TLS() || s.listener.AllowCleartextLogin }

// Admit ends the time before login: the deadline that counted from accept is
// taken away, and the place among the sessions before login is given back. From
// here on Conn's idle deadline is the only one. Join does it too. A protocol
// that goes on talking (SMTP) calls it when the client has earned it.
func (s *Session) Admit() {
	if !s.served {
		s.served = true
		s.router.live.enter(s.live, StateInbound)
	}
	s.admitted()
	s.Conn.SetDeadline(time.Time{})
}

// Trusted reports whether the connection comes from a proxy of ours, whose word
// about the client may be believed. The socket's own address decides, or what a
// PROXY header says: behind a balancer every connection has the balancer's.
func (s *Session) Trusted() bool {
	return contains(s.listener.TrustedProxies, s.peer)
}

// Believe takes over what another proxy says about the client (IMAP ID,
// XCLIENT). It does nothing unless the peer is Trusted, no login succeeded
// before, and it is the first time. Only the TTL is taken from anyone, since it
// can but end a session sooner. Errors: ErrProtocol when the TTL is used up,
// which means that proxies send sessions round in a circle.
func (s *Session) Believe(o origin.Origin) error {
	if o.TTL > 0 && o.TTL-1 < s.ttl {
		if s.ttl = o.TTL - 1; s.ttl < 1 {
			return errLoop
		}
	}
	if s.believed || s.loggedIn || s.MayStartTLS() || !s.Trusted() {
		return nil // what is said before STARTTLS may be anyone's words
	}
	s.believed = true
	if o.Session != "" {
		s.ID = o.Session
	}
	if o.Client.IsValid() {
		s.Client = o.Client
	}
	if o.Local.IsValid() {
		s.Local = o.Local
	}
	s.Log = s.router.o.Logger.WithLazy(zap.String("session", s.ID), zap.Stringer("client", s.Client))
	s.shown(func(l *live) { l.id = s.ID })
	s.router.live.moveTo(s.live, s.Client)
	return nil
}

// Origin is what a backend is told about this session.
func (s *Session) Origin(generation uint64) origin.Origin {
	return origin.Origin{
		Session: s.ID, Client: s.Client, Local: s.Local, TLS: s.TLS(),
		TTL: s.ttl, Generation: generation,
	}
}

// Note adds fields to the session's line in the log.
func (s *Session) Note(fields ...zap.Field) { s.notes = append(s.notes, fields...) }

// Join hands client and backend over to each other, until either side ends, and
// returns at once: nil when the session goes on by itself, and Serve has nothing
// to do but to return nil too. Both connections are closed in any case, now or at
// the end. Bytes that were received and not read are delivered first, so what a
// client pipelined behind its login reaches the backend. After Join neither Conn
// may be used, but for Close.
func (s *Session) Join(ctx context.Context, b *Back) error {
	defer b.Close()
	if !s.release() {
		// The session ended on the threshold: both connections may be
		// interrupted at any moment.
		return context.Cause(ctx)
	}
	back, backRest, backErr := b.Detach()
	if backErr != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.served = true
	s.router.live.enter(s.live, StateJoined)
	s.admitted()
	front, frontRest, err := s.Conn.Detach() // and the client hears of its login
	switch {
	case err != nil:
		if backErr == nil {
			back.Close()
		}
		return err
	case backErr != nil:
		front.Close()
		return backendError("splice", backErr)
	}
	s.handOver(ctx, front, back, splice.Options{
		FrontRest: frontRest, BackRest: backRest,
		Idle: s.router.o.IdleTimeout, Grace: s.router.o.Grace / 2,
	})
	return nil
}

// handOver lets the loop have the session. What happened to it meanwhile is told
// afterwards.
func (s *Session) handOver(ctx context.Context, front, back net.Conn, o splice.Options) {
	l := s.live
	l.notes = s.notes
	l.before = Bytes{s.Conn.BytesRead() - int64(len(o.FrontRest)), s.Conn.BytesWritten()}
	s.handedOver, l.leave = true, s.place.Keep()
	joined := s.router.o.Loop.Join(front, back, o, l.ended)
	s.router.live.handOver(l, joined)
	if ctx.Err() != nil {
		joined.Goodbye(context.Cause(ctx))
	}
}
