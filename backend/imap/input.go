package imap

import (
	"context"
	"io"

	"switchyard/backend/imap/syntax"
)

// input gives the lexer its lines and literals, and keeps a command within its
// bounds.
type input struct {
	session *session
	left    int // bytes that the command in hand may still have
}

func (in *input) limits() (line, command int) {
	if in.session.user == nil {
		return maxCommandBefore, maxCommandBefore
	}
	return maxLine, maxCommand
}

// first waits for a command's first line. It is the one place where the end of
// ctx interrupts the session.
func (in *input) first(ctx context.Context) ([]byte, error) {
	s := in.session
	if s.user != nil {
		s.conn.SetIdle(s.srv.o.IdleTimeout)
		defer s.conn.SetIdle(s.srv.o.DataTimeout)
	}
	_, in.left = in.limits()
	release := s.conn.Bind(ctx)
	line, err := in.Line()
	if !release() || ctx.Err() != nil {
		return nil, &ending{reason: "shutdown", bye: "Server is shutting down", err: context.Cause(ctx)}
	}
	return line, err
}

// Line implements syntax.Source.
func (in *input) Line() ([]byte, error) {
	limit, _ := in.limits()
	line, err := in.session.conn.ReadLine(min(limit, in.left))
	if err != nil {
		return nil, lost(err)
	}
	in.left -= len(line)
	return line, nil
}

// Literal implements syntax.Source: literals that are part of a command and
// no message.
func (in *input) Literal(l syntax.Literal) (string, error) {
	if l.Size > int64(in.left) {
		if !l.Waits {
			if err := in.discard(l.Size); err != nil {
				return "", err
			}
		}
		return "", &syntax.Refused{Text: "A literal is too big"}
	}
	if err := in.invite(l); err != nil {
		return "", err
	}
	in.left -= int(l.Size)
	b := make([]byte, l.Size)
	if _, err := io.ReadFull(in.session.conn, b); err != nil {
		return "", lost(err)
	}
	return string(b), nil
}

// invite asks the client for a literal if it waits.
func (in *input) invite(l syntax.Literal) error {
	if !l.Waits {
		return nil
	}
	in.session.out.Raw("+ OK").End()
	return in.session.flush()
}

// discard reads a refused literal and throws it away. One that would take too
// long ends the session: its bytes are never taken for commands.
func (in *input) discard(n int64) error {
	s := in.session
	limit := int64(maxCommandBefore)
	if s.user != nil {
		limit = 2 * s.srv.o.MaxAppend
	}
	if n > limit {
		return &ending{reason: "literal too big", bye: "A literal is too big"}
	}
	if err := s.conn.Discard(n); err != nil {
		return lost(err)
	}
	return nil
}
