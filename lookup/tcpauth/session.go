package tcpauth

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"switchyard/internal/server"
	"switchyard/internal/wire"
	"switchyard/lookup"
	"switchyard/lookup/internal/authent"
)

// maxBadSecrets ends a connection that keeps guessing.
const maxBadSecrets = 3

// session is the server's side of one connection.
type session struct {
	server     *Server
	conn       *wire.Conn
	out        *outlet
	client     netip.AddrPort
	trusted    bool // on this machine's own standard input
	needSecret bool // nothing is answered until the secret is shown
	shown      bool // there is a secret, and the client has shown it
	badSecrets int
	requests   int

	scratch answer // of the command that is answered at once

	// Tagged requests that wait for the database; see maxInFlight.
	slots    chan struct{}
	wg       sync.WaitGroup
	panicked atomic.Bool
}

// run answers commands until the connection ends, and returns why it did. When
// it returns, nothing of the session runs any more.
func (s *session) run(ctx context.Context) string {
	opts := &s.server.opts
	if !s.trusted && !s.server.allowed(s.client.Addr()) {
		// The old protocol's way to say that this is no answer about users.
		if opts.TLS == nil {
			s.say(authent.Dead.With("not allowed from this address"))
			s.out.flush()
		}
		return "address not allowed"
	}
	s.conn.SetIdle(opts.Early)
	s.conn.SetDeadline(time.Now().Add(opts.Early))
	if opts.TLS != nil && !s.trusted {
		if err := s.conn.ServerTLS(ctx, opts.TLS); err != nil {
			return "TLS handshake: " + err.Error()
		}
	}
	if !s.needSecret {
		s.conn.SetDeadline(time.Time{})
	}
	reason := s.loop(ctx)
	s.wg.Wait()
	if s.panicked.Load() {
		return "panic"
	}
	if ctx.Err() != nil {
		// The answers that were under way are still given.
		s.conn.Resume()
	}
	s.out.drain()
	return reason
}

func (s *session) loop(ctx context.Context) string {
	for {
		line, end, err := s.readCommand()
		if err != nil {
			return s.farewell(err)
		}
		s.requests++
		s.scratch = answer{s: s, end: end, buf: s.scratch.buf[:0]}
		again := s.answer(ctx, line)
		s.scratch.send()
		if ctx.Err() != nil {
			return server.ErrShutdown.Error()
		}
		if !again {
			return "quit"
		}
		if !s.lineWaits() || s.out.full() {
			if err := s.out.flush(); err != nil {
				return reasonOf(err)
			}
		}
	}
}

// readCommand reads a line. Until the secret is shown, a connection holds no
// more than its buffers and maxEarlyLine; afterwards maxLine.
func (s *session) readCommand() ([]byte, string, error) {
	limit := maxLine
	if s.needSecret {
		limit = maxEarlyLine
	}
	s.conn.SetIdle(s.server.opts.Idle)
	return readLine(s.conn.Reader(), limit)
}

// lineWaits reports whether the next command is here already, so that its
// answer can share a packet with this one.
func (s *session) lineWaits() bool {
	n := s.conn.Buffered()
	if n == 0 {
		return false
	}
	waiting, err := s.conn.Peek(n)
	return err == nil && bytes.IndexByte(waiting, '\n') >= 0
}

// farewell tells the client why reading failed, where that helps.
func (s *session) farewell(err error) string {
	if errors.Is(err, errLineTooLong) {
		s.say(authent.Err.With("line too long"))
		s.out.flush()
	}
	return reasonOf(err)
}

// say writes a line that answers no command.
func (s *session) say(r authent.Reply) {
	a := answer{s: s, end: "\n"}
	a.reply(r)
	a.send()
}

func reasonOf(err error) string {
	switch {
	case errors.Is(err, io.EOF):
		return "client closed"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "client closed inside a line"
	case wire.IsTimeout(err):
		return "timeout"
	}
	return err.Error()
}

// answer answers one command; it returns whether the connection goes on.
func (s *session) answer(ctx context.Context, line []byte) bool {
	a := &s.scratch
	if isTagged(line) {
		tag, command, ok := cutTag(line)
		if !ok {
			a.reply(authent.Err.With("a tag is 1 to 16 digits and lower-case letters, and a command follows"))
			return true
		}
		a.tag, a.sum = tag, sumOf(command)
		line = command
	}
	if name, ok := s.quickName(line); ok {
		a.verb = authent.Lookup
		a.quick(name)
		return true
	}
	r, err := authent.ParseRequest(string(line))
	a.verb = r.Verb
	switch {
	case (r.Verb == authent.Quit || r.Verb == authent.Exit) && a.tag == nil:
		a.reply(authent.OK.With(""))
		return false
	case r.Verb == authent.Auth && err == nil && a.tag == nil:
		return s.auth(r.Secret)
	case s.needSecret:
		// Not -ERR: a client that knows no secrets would read that as "no
		// such user" and bounce mail.
		a.reply(authent.Dead.With("the secret must be shown first"))
		return true
	case err != nil:
		a.refuse(err)
		return true
	case a.tag != nil:
		return s.background(ctx, a, r)
	case r.Verb == authent.Feed:
		return s.feed(ctx)
	case r.Verb == authent.Replicate:
		return s.replicate(ctx, r)
	}
	a.run(ctx, r)
	return true
}

// quickName returns the name of a lookup that can be answered at once: the
// command as programs write it, with a name in ASCII.
func (s *session) quickName(line []byte) (string, bool) {
	const verb = "lookup "
	if s.server.immediate == nil || s.needSecret || len(line) <= len(verb) || len(line) > 256 || string(line[:len(verb)]) != verb {
		return "", false
	}
	for _, c := range line[len(verb):] {
		if c <= ' ' || c >= 0x7f {
			return "", false
		}
	}
	name := string(line[len(verb):])
	clean, err := lookup.CleanName(name, "")
	return clean, err == nil
}

// The bounds of tagged requests.
const (
	// maxInFlight bounds those of one connection that wait for the database;
	// further commands are not read meanwhile.
	maxInFlight = 1024

	// maxAllInFlight bounds those of all connections; more are answered with
	// -DEAD.
	maxAllInFlight = 16 << 10
)

// background answers a tagged request when the database has its answer. Other
// commands are answered meanwhile. It returns whether the connection goes on.
func (s *session) background(ctx context.Context, a *answer, r authent.Request) bool {
	if s.slots == nil {
		s.slots = make(chan struct{}, maxInFlight)
	}
	if s.server.inFlight.Add(1) > maxAllInFlight {
		s.server.inFlight.Add(-1)
		a.reply(authent.Dead.With("too many requests"))
		return true
	}
	select {
	case s.slots <- struct{}{}:
	default:
		if s.out.flush() != nil {
			s.server.inFlight.Add(-1)
			return false
		}
		s.slots <- struct{}{} // the database has time limits
	}
	own := &answer{s: s, end: a.end, tag: bytes.Clone(a.tag), sum: a.sum, verb: a.verb}
	s.wg.Go(func() {
		defer func() {
			<-s.slots
			s.server.inFlight.Add(-1)
		}()
		defer s.contain()
		own.run(ctx, r)
		own.send()
		if ctx.Err() == nil { // else the session's end does it
			s.out.flush()
		}
	})
	return true
}

// contain ends the connection after a panic, which is no answer to anybody.
func (s *session) contain() {
	if p := recover(); p != nil {
		s.server.opts.Logger.Error("panic in a request", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
		s.panicked.Store(true)
		s.conn.Close()
	}
}

func (s *Server) limit(v authent.Verb) time.Duration {
	if v == authent.Search {
		return 10 * s.opts.Request
	}
	return s.opts.Request
}

func (s *session) auth(secret string) bool {
	a := &s.scratch
	if s.server.opts.Secret != "" && !s.trusted && !s.server.isSecret(secret) {
		s.badSecrets++
		s.server.opts.Logger.Warn("a client showed a wrong secret", zap.Stringer("client", s.client))
		a.reply(authent.Dead.With("wrong secret"))
		return s.badSecrets < maxBadSecrets
	}
	s.needSecret, s.shown = false, s.server.opts.Secret != "" && !s.trusted
	s.conn.SetDeadline(time.Time{})
	a.reply(authent.OK.With(""))
	return true
}

// version is the answer to the command, on this connection.
func (s *session) version() authent.Reply {
	server := s.server
	ext := []string{extEncoded, extTagged}
	if server.feeder != nil {
		ext = append(ext, extFeed)
	}
	if s.tellsKeys() {
		ext = append(ext, extSCRAM)
	}
	var state []string
	if server.opts.State != nil {
		state = server.opts.State()
	}
	return versionReply(server.opts.Version, ext, state)
}

// helpLines is the answer to help.
func helpLines() []string {
	return strings.Split(`check user password [address]
lookup user
set user password|(NULL) [label="value"] ...
del user
search pattern [-from n] [-max m]
version
help
quit
exit`, "\n")
}
