package tcpauth

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"switchyard/lookup"
	"switchyard/lookup/internal/authent"
)

// mechanisms remembers which mechanisms all accounts can use, since finding out
// may be a walk over all of them and every proxy asks every half a minute.
type mechanisms struct {
	holder lookup.KeyHolder
	now    func() time.Time

	turn  chan struct{} // held by the one who asks; guards the rest
	asked time.Time
	known []string
}

// mechanismsFor is how long an answer is remembered.
const mechanismsFor = 15 * time.Second

func newMechanisms(holder lookup.KeyHolder) *mechanisms {
	return &mechanisms{holder: holder, now: time.Now, turn: make(chan struct{}, 1)}
}

// get returns the mechanisms. Others who come meanwhile wait for the same
// answer. Errors: those of the holder; they are not remembered.
func (m *mechanisms) get(ctx context.Context) ([]string, error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, lookup.Unavailable("wait for the mechanisms of all accounts", ctx.Err())
	}
	if !m.asked.IsZero() && m.now().Sub(m.asked) < mechanismsFor {
		return m.known, nil
	}
	known, err := m.holder.KeyMechanisms(ctx)
	if err != nil {
		return nil, err
	}
	m.known, m.asked = known, m.now()
	return known, nil
}

// tellsKeys reports whether keys may be told on this connection. Who has them
// can pretend to be the server, towards any client: they go to who has shown the
// secret, and where nobody can listen.
func (s *session) tellsKeys() bool {
	if s.server.mechanisms == nil {
		return false
	}
	private := s.conn.TLS() != nil || s.client.Addr().Unmap().IsLoopback()
	return s.trusted || s.shown && private
}

// errKeysRefused is told to who asks for keys all the same. Not -ERR: it says
// nothing about the account.
var errKeysRefused = authent.Dead.With("keys are told over TLS to who has shown the secret")

// keys answers xkeys. The keys themselves are in no log.
func (a *answer) keys(ctx context.Context, r authent.Request) {
	if !a.s.tellsKeys() {
		a.reply(errKeysRefused)
		return
	}
	keys, err := a.s.server.mechanisms.holder.Keys(ctx, r.Name, r.Mechanism)
	var reply authent.Reply
	switch {
	case err == nil && keys.Mechanism != r.Mechanism:
		err = errors.New("keys for another mechanism")
	case err == nil:
		reply, err = authent.KeysReply(r.Name, keys)
	case errors.Is(err, lookup.ErrUnavailable):
	case errors.Is(err, lookup.ErrNoKeys):
		reply, err = authent.KeylessReply(r.Name, r.Mechanism)
	case errors.Is(err, lookup.ErrAbsent):
		reply, err = authent.Err.With(noSuchUser), nil
	}
	a.replyOr(reply, err)
}

// allMechanisms answers xkeymechs.
func (a *answer) allMechanisms(ctx context.Context) {
	if !a.s.tellsKeys() {
		a.reply(errKeysRefused)
		return
	}
	list, err := a.s.server.mechanisms.get(ctx)
	a.replyOr(authent.MechanismsReply(list), err)
}

// replyOr replies, or says that nobody knows: an error here is never a "no".
func (a *answer) replyOr(r authent.Reply, err error) {
	if err != nil {
		a.s.server.opts.Logger.Warn("user database unavailable", zap.Error(err))
		r = authent.Dead.With(databaseAway)
	}
	a.reply(r)
}
