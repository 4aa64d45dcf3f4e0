package imap

import (
	"context"
	"strings"
	"time"

	"switchyard/backend/imap/syntax"
)

// idleTick is how often an idle client gets a word, so that the boxes between
// keep the connection.
const idleTick = 5 * time.Minute

// idle serves IDLE (RFC 2177). One goroutine waits for the client's DONE while
// the session's own waits for changes; it has ended when idle returns.
func (s *session) idle(ctx context.Context) (reply, error) {
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	s.out.Raw("+ idling").End()
	if err := s.sync(ctx, true); err != nil {
		return reply{}, err
	}
	if err := s.flush(); err != nil {
		return reply{}, err
	}
	s.conn.SetIdle(s.srv.o.IdleTimeout)
	defer s.conn.SetIdle(s.srv.o.DataTimeout)
	said := make(chan idleWord, 1)
	go func() {
		line, err := s.in.Line()
		said <- idleWord{string(line), err}
	}()
	word, err := s.tellChanges(ctx, said)
	if err != nil {
		end := asEnding(err)
		s.bye(end)
		s.conn.Close()
		<-said
		return reply{}, &ending{reason: end.reason, err: end.err}
	}
	if word.err != nil {
		return reply{}, word.err
	}
	if !strings.EqualFold(word.line, "DONE") {
		return reply{}, syntax.Errorf("IDLE ends with DONE")
	}
	return ok("Done")
}

// idleWord is what an idle client says.
type idleWord struct {
	line string
	err  error
}

// tellChanges sends changes until the client says something.
func (s *session) tellChanges(ctx context.Context, said <-chan idleWord) (idleWord, error) {
	var changes <-chan struct{}
	if s.box != nil {
		changes = s.box.watch.C
	}
	tick := time.NewTicker(idleTick)
	defer tick.Stop()
	for {
		select {
		case word := <-said:
			return word, nil
		case <-s.stop:
			return idleWord{}, &ending{reason: "shutdown", bye: "Server is shutting down"}
		case <-changes:
			s.box.dirty = true
			if err := s.sync(ctx, true); err != nil {
				return idleWord{}, err
			}
		case <-tick.C:
			s.untagged("OK Still here")
		}
		if err := s.flush(); err != nil {
			return idleWord{}, err
		}
	}
}
