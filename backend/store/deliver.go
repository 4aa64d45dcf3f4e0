package store

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/store/rows"
	"switchyard/backend/store/segment"
)

// incoming is a message whose body is on disk and which no mailbox has yet.
type incoming struct {
	guid      backend.GUID
	place     segment.Place
	size      int64
	flags     []string
	date      time.Time
	structure []byte // encoded
}

func newGUID() (g backend.GUID) {
	rand.Read(g[:]) // never fails
	return g
}

// take checks a message and writes its body. When it returns no error the
// caller calls settle in the end.
func (u *user) take(mailbox string, in *backend.Incoming) (n incoming, err error) {
	s := u.s
	if in.Size > s.opts.MaxMessage {
		return n, backend.ErrTooBig
	}
	if n.flags, err = canonicalFlags(in.Flags); err != nil {
		return n, err
	}
	n.guid, n.size, n.date = newGUID(), in.Size, in.InternalDate
	if n.date.IsZero() {
		n.date = s.opts.Clock()
	}
	n.date = time.Unix(n.date.Unix(), 0).UTC()
	if n.structure, err = encodeStructure(in.Body, in.Size); err != nil {
		return n, err
	}
	u.mu.RLock()
	var box backend.GUID
	if b, ok := u.names[mailbox]; ok {
		box = b.ID
	}
	u.mu.RUnlock()
	n.place, err = u.writeBody(segment.Info{
		GUID: n.guid, Mailbox: box, User: u.account, InternalDate: n.date, Flags: n.flags,
	}, in.Body, in.Size)
	return n, err
}

// takeTogether is how many bodies of one call are written at a time, so that
// they share syncs.
const takeTogether = 16

// takeAll takes messages. It returns those that it took also with an error,
// for the caller to settle.
func (u *user) takeAll(mailbox string, messages []backend.Incoming) (in []incoming, size int64, err error) {
	if len(messages) == 1 {
		n, err := u.take(mailbox, &messages[0])
		if err != nil {
			return nil, 0, err
		}
		return []incoming{n}, n.size, nil
	}
	in = make([]incoming, len(messages))
	var g errgroup.Group
	g.SetLimit(takeTogether)
	for i := range messages {
		g.Go(func() (err error) {
			n, err := u.take(mailbox, &messages[i])
			if err == nil {
				in[i] = n
			}
			return err
		})
	}
	err = g.Wait()
	in = slices.DeleteFunc(in, func(n incoming) bool { return n.guid.IsZero() })
	for i := range in {
		size += in[i].size
	}
	return in, size, err
}

// writeBody writes a body, here and with the Replicator.
func (u *user) writeBody(info segment.Info, body io.ReaderAt, size int64) (segment.Place, error) {
	s := u.s
	if err := s.space.check(size); err != nil {
		return segment.Place{}, err
	}
	shipped := make(chan error, 1)
	if r := s.opts.Replicator; r != nil {
		go func() { shipped <- r.ShipBody(u.shard, info, body, size) }()
	} else {
		shipped <- nil
	}
	place, err := s.segments.Append(u.shard, info, body, size)
	far := <-shipped
	var source *segment.SourceError
	switch {
	case errors.As(err, &source):
		return place, err
	case err != nil:
		s.space.failed(err)
		return place, s.broken("write a body", err)
	case far != nil:
		s.segments.Unpin(place)
		s.log.Warn("the peer did not take a body", zap.String("user", u.account), zap.Error(far))
		return segment.Place{}, errors.Join(backend.ErrBusy, far)
	}
	return place, nil
}

// settle lets go of a body once it is known whether something refers to it.
// After an unknown outcome the log may, so the body stays.
func (s *Store) settle(p segment.Place, err error) {
	if !errors.Is(err, backend.ErrOutcomeUnknown) {
		s.segments.Unpin(p)
	}
}

// errFull says that a mailbox has given all its UIDs.
var errFull = errors.New("mailbox has no uids left")

// uidsLeft refuses more messages than a mailbox has UIDs for.
func uidsLeft(b *rows.Box, n int) error {
	if uint64(b.UIDNext)+uint64(n) > 1<<32-1 {
		return errors.Join(backend.ErrTooMany, errFull)
	}
	return nil
}

// file puts an incoming message into a mailbox.
func (t *tx) file(b *rows.Box, n *incoming) (backend.Appended, error) {
	a := backend.Appended{Mailbox: b.ID, UIDValidity: b.UIDValidity, UID: b.UIDNext, GUID: n.guid}
	t.places[n.guid] = n.place
	err := t.apply(effect.MessageAdded{Mailbox: b.ID, Message: backend.Message{
		UID: a.UID, ModSeq: b.HighestModSeq + 1, GUID: n.guid, Size: n.size,
		InternalDate: n.date, SaveDate: t.seconds(), Flags: n.flags,
	}})
	t.put(rows.KeyStructure(t.row.ID, n.guid), n.structure)
	return a, err
}

// seconds is the change's time as messages have it.
func (t *tx) seconds() time.Time { return time.Unix(t.now.Time().Unix(), 0).UTC() }

// Append implements backend.User.
func (m *mail) Append(ctx context.Context, mailbox string, messages []backend.Incoming) (out []backend.Appended, err error) {
	u := m.u
	leave, err := u.s.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	mailbox, err = canonicalName(mailbox)
	if err != nil {
		return nil, backend.ErrNoMailbox
	}
	u.mu.RLock()
	_, ok := u.names[mailbox]
	u.mu.RUnlock()
	if !ok {
		return nil, backend.ErrNoMailbox
	}
	in, size, err := u.takeAll(mailbox, messages)
	defer func() {
		for i := range in {
			u.s.settle(in[i].place, err)
		}
	}()
	if err != nil {
		return nil, err
	}
	err = u.add(ctx, func(t *tx) error {
		b, ok := t.named(mailbox)
		if !ok {
			return backend.ErrNoMailbox
		}
		if err := errors.Join(t.room(size, len(in)), uidsLeft(b, len(in))); err != nil {
			return err
		}
		for i := range in {
			b, _ = t.peek(b.ID)
			a, err := t.file(b, &in[i])
			if err != nil {
				return err
			}
			out = append(out, a)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Deliver implements backend.User.
func (m *mail) Deliver(ctx context.Context, d backend.Delivery) (out backend.Delivered, err error) {
	u := m.u
	leave, err := u.s.enter()
	if err != nil {
		return out, err
	}
	defer leave()
	u.mu.RLock()
	id := u.row.ID
	u.mu.RUnlock()
	if d.ID != [32]byte{} { // before the body is written for nothing
		row, ok, err := u.delivery(id, d.ID)
		if err != nil {
			return out, u.s.broken("look for a delivery id", err)
		}
		if ok {
			return backend.Delivered{Appended: row.Appended, Duplicate: true}, nil
		}
	}
	mailbox, err := canonicalName(d.Mailbox)
	if err != nil {
		mailbox = backend.Inbox
	}
	n, err := u.take(mailbox, &d.Incoming)
	if err != nil {
		return out, err
	}
	defer func() { u.s.settle(n.place, err) }()
	err = u.add(ctx, func(t *tx) (err error) {
		out, err = t.deliver(mailbox, d.ID, &n)
		return err
	})
	if err != nil {
		return backend.Delivered{}, err
	}
	return out, nil
}

// deliver files a delivery and remembers its id, unless it was here before.
func (t *tx) deliver(mailbox string, id [32]byte, n *incoming) (out backend.Delivered, err error) {
	if id != [32]byte{} {
		row, ok, err := t.delivery(id)
		if err != nil {
			return out, t.u.s.broken("look for a delivery id", err)
		}
		if ok {
			return backend.Delivered{Appended: row.Appended, Duplicate: true}, nil
		}
	}
	b, ok := t.named(mailbox)
	if !ok {
		if b, ok = t.named(backend.Inbox); !ok {
			return out, backend.ErrNoMailbox
		}
	}
	if err := errors.Join(t.room(n.size, 1), uidsLeft(b, 1)); err != nil {
		return out, err
	}
	if out.Appended, err = t.file(b, n); err != nil || id == [32]byte{} {
		return out, err
	}
	return out, t.apply(effect.Delivered{ID: id, Appended: out.Appended})
}
