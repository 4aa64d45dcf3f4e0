package tcpauth

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"switchyard/internal/server"
	"switchyard/internal/wire"
	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
)

// maxBadSecrets ends a connection that keeps guessing.
const maxBadSecrets = 3

// session is the server's side of one connection.
type session struct {
	server     *Server
	conn       *wire.Conn
	client     netip.AddrPort
	needSecret bool // nothing is answered until the secret is shown
	badSecrets int
	requests   int
	end        string // the line end that the client uses
}

// run answers commands until the connection ends, and returns why it did.
func (s *session) run(ctx context.Context) string {
	opts := &s.server.opts
	s.end = "\n"
	if !s.server.allowed(s.client.Addr()) {
		// The old protocol's way to say that this is no answer about users.
		s.conn.SetIdle(opts.Early)
		if opts.TLS == nil {
			s.reply(Reply{Dead, "not allowed from this address"})
			s.conn.Flush()
		}
		return "address not allowed"
	}
	s.conn.SetIdle(opts.Early)
	s.conn.SetDeadline(time.Now().Add(opts.Early))
	if opts.TLS != nil {
		if err := s.conn.ServerTLS(ctx, opts.TLS); err != nil {
			return "TLS handshake: " + err.Error()
		}
	}
	if !s.needSecret {
		s.conn.SetDeadline(time.Time{})
	}
	for {
		line, end, err := s.readCommand()
		if err != nil {
			return s.farewell(err)
		}
		s.end = end
		s.requests++
		again := s.answer(ctx, string(line))
		if ctx.Err() != nil {
			// The answer that was under way is still given.
			s.conn.Resume()
			again = false
		}
		if !again || !s.lineWaits() {
			if err := s.conn.Flush(); err != nil {
				return reasonOf(err)
			}
		}
		switch {
		case ctx.Err() != nil:
			return server.ErrShutdown.Error()
		case !again:
			return "quit"
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
	line, end, err := readLine(s.conn.Reader(), limit)
	s.conn.SetIdle(s.server.opts.Early) // for writing
	return line, end, err
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
		s.reply(Reply{Err, "line too long"})
		s.conn.Flush()
	}
	return reasonOf(err)
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
func (s *session) answer(ctx context.Context, line string) bool {
	r, err := ParseRequest(line)
	switch {
	case r.Verb == Quit || r.Verb == Exit:
		s.reply(Reply{OK, ""})
		return false
	case r.Verb == Auth && err == nil:
		return s.auth(r.Secret)
	case s.needSecret:
		// Not -ERR: a client that knows no secrets would read that as "no
		// such user" and bounce mail.
		s.reply(Reply{Dead, "the secret must be shown first"})
		return true
	case err != nil:
		s.refuse(err)
		return true
	}
	// The daemon's end does not end a change that is under way.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limit(r.Verb))
	defer cancel()
	switch r.Verb {
	case Lookup:
		account, err := s.server.db.Lookup(ctx, r.Name)
		s.account(account, err)
	case Check:
		s.check(ctx, r)
	case Set:
		s.change(r, func() (string, error) {
			_, err := s.server.db.Set(ctx, r.Name, r.Password, r.Labels)
			return r.Name + " added to database", err
		})
	case Delete:
		s.change(r, func() (string, error) {
			return r.Name + " deleted from database", s.server.db.Delete(ctx, r.Name)
		})
	case Search:
		s.search(ctx, r)
	case Version:
		s.reply(versionReply(s.server.opts.Version))
	case Help:
		for _, text := range helpLines() {
			s.reply(Reply{Data, text})
		}
		s.reply(Reply{OK, ""})
	}
	return true
}

func (s *session) limit(v Verb) time.Duration {
	if v == Search {
		return 10 * s.server.opts.Request
	}
	return s.server.opts.Request
}

func (s *session) auth(secret string) bool {
	if s.server.opts.Secret != "" && !s.server.isSecret(secret) {
		s.badSecrets++
		s.server.opts.Logger.Warn("a client showed a wrong secret", zap.Stringer("client", s.client))
		s.reply(Reply{Dead, "wrong secret"})
		return s.badSecrets < maxBadSecrets
	}
	s.needSecret = false
	s.conn.SetDeadline(time.Time{})
	s.reply(Reply{OK, ""})
	return true
}

func (s *session) check(ctx context.Context, r Request) {
	if *r.Password == noPassword {
		s.account(lookup.Account{}, lookup.ErrRejected)
		return
	}
	account, err := s.server.db.Check(ctx, lookup.Credentials{Name: r.Name, Password: *r.Password, Client: r.Client})
	s.account(account, err)
}

// account answers a lookup or a check.
func (s *session) account(account lookup.Account, err error) {
	if err != nil {
		s.refuse(err)
		return
	}
	r, err := accountReply(account)
	if err != nil {
		s.server.opts.Logger.Warn("the protocol cannot carry a record", zap.String("user", account.Name), zap.Error(err))
		r = Reply{Dead, "the record cannot be carried"}
	}
	s.reply(r)
}

// change answers a set or a del.
func (s *session) change(r Request, do func() (string, error)) {
	if s.server.opts.ReadOnly {
		s.reply(Reply{Err, "this server is read-only"})
		return
	}
	text, err := do()
	if err != nil {
		s.refuse(err)
		return
	}
	s.server.opts.Logger.Debug("user changed", zap.String("verb", string(r.Verb)), zap.String("user", r.Name), zap.Stringer("client", s.client))
	s.reply(Reply{OK, text})
}

func (s *session) search(ctx context.Context, r Request) {
	names, found, total, err := s.server.db.Search(ctx, r.Pattern, r.From, r.Max)
	if err != nil {
		s.refuse(err)
		return
	}
	for _, name := range names {
		s.reply(Reply{Data, name})
	}
	s.reply(searchReply(found, total))
}

// refuse is the one place where an error becomes a reply: a certain "no" is
// -ERR, everything else -DEAD. What went wrong inside is not told.
func (s *session) refuse(err error) {
	var refused *netwin.RefusedError
	switch lookup.AnswerOf(err) {
	case lookup.AnswerAbsent:
		s.reply(Reply{Err, "no such user"})
		return
	case lookup.AnswerRejected:
		s.reply(Reply{Err, "password wrong or not a valid user"})
		return
	}
	if errors.As(err, &refused) && !errors.Is(err, lookup.ErrUnavailable) {
		s.reply(Reply{Err, refused.Reason})
		return
	}
	s.server.opts.Logger.Warn("user database unavailable", zap.Error(err))
	s.reply(Reply{Dead, "user database unavailable"})
}

// reply writes a line into the buffer.
func (s *session) reply(r Reply) {
	line, err := r.Line()
	if err != nil {
		line = string(Dead) + " the answer cannot be carried"
	}
	s.conn.WriteString(line)
	s.conn.WriteString(s.end)
}
