package imap

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"switchyard/backend"
	"switchyard/backend/imap/syntax"
	"switchyard/internal/spool"
)

// The bounds of one APPEND of several messages (RFC 3502).
const (
	maxAppends     = 1000
	maxAppendTimes = 4 // all together, in multiples of Options.MaxAppend
)

// errNUL: a message in a literal that may not hold NUL.
var errNUL = syntax.Errorf("NUL in a literal: use literal8")

// append serves APPEND: one message or several, all or none. The messages are
// streamed into a spool, and the store sees them only when all have come.
func (s *session) append(ctx context.Context) (reply, error) {
	name, err := s.mailboxArgument()
	if err != nil {
		return reply{}, err
	}
	// Ask before the client sends what cannot be kept.
	if _, err := s.user.Mailbox(ctx, name); err != nil {
		return s.orTryCreate(ctx, name, err)
	}
	sp := spool.New(spool.Options{Dir: s.srv.o.SpoolDir, Limit: maxAppendTimes * s.srv.o.MaxAppend})
	defer sp.Close()
	var messages []backend.Incoming
	for first := true; first || s.lex.Peek() == ' '; first = false {
		if len(messages) == maxAppends {
			return no("LIMIT", "Too many messages in one APPEND")
		}
		m, err := s.appendMessage(ctx, sp)
		if err != nil {
			return reply{}, err
		}
		messages = append(messages, m)
	}
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	done, err := s.user.Append(ctx, name, messages)
	if err != nil {
		return s.orTryCreate(ctx, name, err)
	}
	if s.box != nil && len(done) > 0 && s.box.id == done[0].Mailbox {
		s.box.dirty = true
	}
	return okCode(appendCode(done), "Appended"), nil
}

func appendCode(done []backend.Appended) string {
	if len(done) == 0 {
		return ""
	}
	code := []byte("APPENDUID " + itoa(int64(done[0].UIDValidity)) + " ")
	code = syntax.AppendSet(code, func(yield func(backend.UID) bool) {
		for i := range done {
			if !yield(done[i].UID) {
				return
			}
		}
	})
	return string(code)
}

// appendMessage reads a space, flags, a date and a message.
func (s *session) appendMessage(ctx context.Context, sp *spool.Spool) (backend.Incoming, error) {
	var m backend.Incoming
	if err := s.lex.SP(); err != nil {
		return m, err
	}
	if s.lex.Peek() == '(' {
		flags, err := s.lex.Flags()
		if err != nil {
			return m, err
		}
		if m.Flags, err = cleanFlags(flags); err != nil {
			return m, err
		}
		if err := s.lex.SP(); err != nil {
			return m, err
		}
	}
	if s.lex.Peek() == '"' {
		var err error
		if m.InternalDate, err = s.lex.DateTime(); err != nil {
			return m, err
		}
		if m.InternalDate.Before(time.Unix(0, 0)) {
			m.InternalDate = time.Unix(0, 0)
		}
		if err := s.lex.SP(); err != nil {
			return m, err
		}
	}
	if c := s.lex.Peek(); c == 'C' || c == 'c' {
		if word, err := s.lex.Word(); err != nil || word != "CATENATE" {
			return m, syntax.Errorf("A message is missing")
		}
		if err := s.lex.SP(); err != nil {
			return m, err
		}
		whole, err := s.catenate(ctx, sp)
		m.Body, m.Size = whole.Body, whole.Size
		return m, err
	}
	utf8 := s.lex.Peek() == 'U' || s.lex.Peek() == 'u'
	if utf8 { // RFC 6855 §4
		if word, err := s.lex.Word(); err != nil || word != "UTF8" {
			return m, syntax.Errorf("A message is missing")
		}
		if err := s.lex.SP(); err != nil {
			return m, err
		}
		if err := s.lex.Want('('); err != nil {
			return m, err
		}
	}
	lit, err := s.lex.Literal()
	if err != nil {
		return m, err
	}
	if err := s.takeMessage(sp, lit, &m); err != nil {
		return m, err
	}
	if utf8 {
		return m, s.lex.Want(')')
	}
	return m, nil
}

// takeMessage streams a literal into the spool and goes on behind it.
func (s *session) takeMessage(sp *spool.Spool, lit syntax.Literal, m *backend.Incoming) error {
	if lit.Size > s.srv.o.MaxAppend || sp.Size()+lit.Size > maxAppendTimes*s.srv.o.MaxAppend {
		return s.refuseMessage(lit, backend.ErrTooBig)
	}
	if lit.Size == 0 {
		// RFC 3502: a message of no bytes cancels the APPEND.
		return s.refuseMessage(lit, syntax.Errorf("An empty message is none"))
	}
	if err := s.in.invite(lit); err != nil {
		return err
	}
	start := sp.Size()
	to := &messageWriter{w: sp, binary: lit.Binary}
	n, err := io.CopyN(to, s.conn, lit.Size)
	if err != nil && to.err == nil {
		return lost(err) // the client's side broke
	}
	if err == nil {
		m.Body, m.Size = io.NewSectionReader(sp, start, lit.Size), lit.Size
		err = to.bad
	} else if derr := s.in.discard(lit.Size - n - int64(to.failed)); derr != nil {
		return derr
	} else if errors.Is(err, spool.ErrTooBig) {
		err = backend.ErrTooBig
	}
	if next := s.lex.NextLine(); next != nil {
		return next
	}
	return err
}

// refuseMessage passes over a message that is not wanted.
func (s *session) refuseMessage(lit syntax.Literal, why error) error {
	if lit.Waits {
		return why
	}
	if err := s.in.discard(lit.Size); err != nil {
		return err
	}
	if err := s.lex.NextLine(); err != nil {
		return err
	}
	return why
}

// messageWriter tells a spool that fails from a client that does, and finds
// NUL.
type messageWriter struct {
	w      io.Writer
	binary bool
	bad    error // the message may not be taken
	err    error // the spool's error
	failed int   // bytes that were read from the client and not spooled
}

func (m *messageWriter) Write(p []byte) (int, error) {
	if !m.binary && m.bad == nil && strings.IndexByte(string(p), 0) >= 0 {
		m.bad = errNUL
	}
	n, err := m.w.Write(p)
	if err != nil {
		m.err, m.failed = err, len(p)-n
	}
	return n, err
}

// cleanFlags spells system flags canonically, drops \Recent, which only
// servers set, and leaves the rest to the store.
func cleanFlags(flags []string) ([]string, error) {
	var out []string
	for _, f := range flags {
		if strings.HasPrefix(f, `\`) {
			canonical := ""
			for _, known := range systemFlags() {
				if strings.EqualFold(f, known) {
					canonical = known
				}
			}
			if strings.EqualFold(f, `\Recent`) {
				continue
			}
			if canonical == "" {
				return nil, backend.ErrFlag
			}
			f = canonical
		}
		out = append(out, f)
	}
	return out, nil
}
