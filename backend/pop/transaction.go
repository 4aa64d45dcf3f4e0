package pop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"switchyard/backend"

	"go.uber.org/zap"
)

// transaction runs a command of the TRANSACTION state.
func (s *session) transaction(ctx context.Context, verb, args string) error {
	switch verb {
	case "STAT":
		s.stat(ctx)
	case "LIST":
		s.list(args, "octets", func(i int) string { return strconv.FormatInt(s.drop.listed(ctx, i), 10) })
	case "UIDL":
		s.list(args, "unique-ids", s.drop.id)
	case "RETR":
		return s.retr(ctx, args)
	case "TOP":
		return s.top(ctx, args)
	case "DELE":
		if i, ok := s.number(args); ok {
			s.drop.deleted[i] = true
			s.ok("marked; QUIT deletes it")
		}
	case "NOOP":
		s.ok("done")
	case "RSET":
		clear(s.drop.deleted)
		s.ok(fmt.Sprintf("%d messages", s.drop.count()))
	case "USER", "PASS", "AUTH", "STLS", "XCLIENT":
		s.err("logged in already")
	default:
		s.err("unknown command")
	}
	return nil
}

// stat answers the number of messages and their octets, without those marked
// (RFC 1939 §5).
func (s *session) stat(ctx context.Context) {
	var octets int64
	for i := range s.drop.messages.Len() {
		if !s.drop.deleted[i] {
			octets += s.drop.listed(ctx, i)
		}
	}
	s.ok(fmt.Sprintf("%d %d", s.drop.count(), octets))
}

// list answers LIST and UIDL, for one message or all.
func (s *session) list(args, what string, value func(i int) string) {
	if args != "" {
		if i, ok := s.number(args); ok {
			s.ok(fmt.Sprintf("%d %s", i+1, value(i)))
		}
		return
	}
	s.ok(what)
	for i := range s.drop.messages.Len() {
		if !s.drop.deleted[i] {
			s.conn.Printf("%d %s\r\n", i+1, value(i))
		}
	}
	s.conn.Printf(".\r\n")
}

// number reads a message number and answers when there is no such message. i
// counts from zero.
func (s *session) number(arg string) (i int, ok bool) {
	n, err := strconv.ParseUint(arg, 10, 32)
	switch {
	case err != nil:
		s.err("not a message number")
	case n == 0 || n > uint64(s.drop.messages.Len()):
		s.err("no such message")
	case s.drop.deleted[int(n)-1]:
		s.err("message is marked as deleted")
	default:
		return int(n) - 1, true
	}
	return 0, false
}

func (s *session) retr(ctx context.Context, args string) error {
	i, ok := s.number(args)
	if !ok {
		return nil
	}
	size, err := s.drop.size(ctx, i)
	if err != nil {
		return s.unreadable(i, err)
	}
	err = s.send(ctx, i, fmt.Sprintf("%d octets", size), func(r io.Reader) io.Reader { return r })
	if err == nil {
		s.retrieved++
	}
	return err
}

func (s *session) top(ctx context.Context, args string) error {
	number, count, _ := strings.Cut(args, " ")
	lines, err := strconv.ParseUint(count, 10, 31)
	if err != nil {
		s.err("TOP takes a message number and a number of lines")
		return nil
	}
	i, ok := s.number(number)
	if !ok {
		return nil
	}
	return s.send(ctx, i, "top of message", func(r io.Reader) io.Reader { return newTop(r, int64(lines)) })
}

// send streams message i, or the part of it that cut leaves. A message that
// turns out unreadable half-way ends the connection: there is no other way to
// tell the client that what it got is not the message.
func (s *session) send(ctx context.Context, i int, text string, cut func(io.Reader) io.Reader) error {
	body, err := s.drop.user.Body(ctx, s.drop.mailbox, s.drop.messages.At(i).UID)
	if err != nil {
		return s.unreadable(i, err)
	}
	defer body.Close()
	source := &source{r: cut(io.NewSectionReader(body, 0, body.Size()))}
	out := newDots(s.conn)
	s.ok(text)
	if _, err := io.CopyBuffer(out, source, s.drop.buffer()); err != nil {
		if source.err == nil {
			return err // the connection's
		}
		s.log.Error("message cannot be read", zap.String("session", s.origin.Session),
			zap.String("user", s.user.Account()), zap.Stringer("message", s.drop.messages.At(i).GUID), zap.Error(err))
		return errBodyFails
	}
	return out.end()
}

// source remembers whether it was reading that failed.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// unreadable answers for a message that cannot be opened.
func (s *session) unreadable(i int, err error) error {
	if errors.Is(err, backend.ErrNoMessage) || errors.Is(err, backend.ErrNoMailbox) {
		s.err("message is gone")
		return nil
	}
	s.log.Error("message cannot be read", zap.String("session", s.origin.Session),
		zap.String("user", s.user.Account()), zap.Stringer("message", s.drop.messages.At(i).GUID), zap.Error(err))
	s.err("[SYS/TEMP] message cannot be read now")
	return nil
}

// quit ends the session. Behind a login this is the UPDATE state, the only
// place where messages are deleted (RFC 1939 §6).
func (s *session) quit(ctx context.Context) error {
	if s.user == nil {
		s.ok("bye")
		return errQuit
	}
	n, err := s.drop.expunge(ctx)
	s.deleted = n
	if err != nil {
		s.log.Warn("messages not deleted", zap.String("session", s.origin.Session), zap.String("user", s.user.Account()), zap.Error(err))
		s.err("[SYS/TEMP] some messages were not deleted")
		return errQuit
	}
	s.ok(fmt.Sprintf("bye, %d deleted", n))
	return errQuit
}
