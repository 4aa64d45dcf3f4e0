package textindex

import (
	"context"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"

	"switchyard/backend"
)

// Zone is which texts of a message are meant.
type Zone uint8

// The zones: SEARCH's BODY and TEXT (RFC 9051 §6.4.4).
const (
	Body Zone = Zone(inBody)
	Text Zone = Zone(inHeader | inBody)
)

// Hit says whether a message has a needle.
type Hit uint8

// The answers. Maybe means: read it.
const (
	No Hit = iota
	Maybe
	Yes
)

// What comes together.
const (
	batchMessages = 512 // messages added as one block
	batchBytes    = 8 << 20
	mostMessages  = 4096 // messages of a block
	smallBlocks   = 8    // blocks below batchMessages before they become one
)

// Find says for each message of a mailbox, in the list's order, whether one of
// its texts contains the needle. Messages that the index does not have are added
// first; Find blocks for as long as reading them takes. An index that is damaged
// is forgotten: then every message is a Maybe. Errors: ctx's and the store's.
func (x *Index) Find(ctx context.Context, u backend.User, mailbox backend.GUID, messages backend.Messages, text string, zone Zone) ([]Hit, error) {
	hits := slices.Repeat([]Hit{Maybe}, messages.Len())
	n := newNeedle(text)
	if len(n.pieces) == 0 {
		return hits, nil
	}
	a, err := x.use(u.Account())
	if err == nil {
		err = x.find(ctx, a, u, mailbox, messages, n, where(zone), hits)
		x.release(a)
	}
	if errors.Is(err, errDamaged) || errors.Is(err, pebble.ErrNotFound) {
		x.log.Warn("text index is damaged, it is made again", zap.String("user", u.Account()), zap.Error(err))
		return slices.Repeat([]Hit{Maybe}, messages.Len()), x.Forget(u.Account())
	}
	return hits, err
}

func (x *Index) find(ctx context.Context, a *account, u backend.User, mailbox backend.GUID, messages backend.Messages, n needle, zone where, hits []Hit) error {
	if err := x.add(ctx, a, u, mailbox, messages, nil); err != nil {
		return err
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	wanted := make(map[uint64][]int) // by block: positions
	for i, m := range messages.All() {
		if at, ok := a.at[m.GUID]; ok {
			wanted[at.block] = append(wanted[at.block], i)
		}
	}
	for id, positions := range wanted {
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := x.block(a, id, a.heads[id])
		if err != nil {
			return err
		}
		found, err := b.find(n)
		if err != nil {
			return err
		}
		for _, i := range positions {
			number := a.at[messages.At(i).GUID].number
			hits[i] = b.answer(n, found[number]&zone != 0, number)
		}
	}
	return nil
}

// answer is what the words of a message say.
func (b *block) answer(n needle, found bool, number uint32) Hit {
	_, over := slices.BinarySearch(b.over, number)
	switch {
	case found && n.exact:
		return Yes
	case found || over:
		return Maybe
	}
	return No
}

// Add adds the messages that are missing. Messages that are gone meanwhile are
// passed over. Progress, if not nil, is told how many of them are added. Errors:
// ctx's, the store's and the disk's.
func (x *Index) Add(ctx context.Context, u backend.User, mailbox backend.GUID, messages backend.Messages, progress func(done, all int)) error {
	a, err := x.use(u.Account())
	if err != nil {
		return err
	}
	defer x.release(a)
	return x.add(ctx, a, u, mailbox, messages, progress)
}

// add does it one at a time for an account.
func (x *Index) add(ctx context.Context, a *account, u backend.User, mailbox backend.GUID, messages backend.Messages, progress func(done, all int)) error {
	select {
	case a.adding <- struct{}{}:
		defer func() { <-a.adding }()
	case <-ctx.Done():
		return ctx.Err()
	}
	var missing []*backend.Message
	a.mu.RLock()
	for _, m := range messages.All() {
		if _, there := a.at[m.GUID]; !there {
			missing = append(missing, m)
		}
	}
	a.mu.RUnlock()
	if len(missing) == 0 {
		return nil
	}
	b := newBuilder()
	for i, m := range missing {
		if len(b.guids) == batchMessages || b.size > batchBytes {
			if err := x.write(ctx, a, b, nil); err != nil {
				return err
			}
			b = newBuilder()
			if progress != nil {
				progress(i, len(missing))
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		w, err := read(ctx, u, mailbox, m.UID)
		if errors.Is(err, backend.ErrNoMessage) {
			continue
		}
		if err != nil {
			return err
		}
		b.add(m.GUID, w)
	}
	if err := x.write(ctx, a, b, nil); err != nil {
		return err
	}
	if progress != nil {
		progress(len(missing), len(missing))
	}
	return x.tidy(ctx, a, u)
}

// read reads a message's words.
func read(ctx context.Context, u backend.User, mailbox backend.GUID, uid backend.UID) (*words, error) {
	root, err := u.Structure(ctx, mailbox, uid)
	if err != nil {
		return nil, err
	}
	body, err := u.Body(ctx, mailbox, uid)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return wordsOf(body, root)
}

// tidy makes one block of many small ones, and leaves out messages that are
// gone when they are more than what is there.
func (x *Index) tidy(ctx context.Context, a *account, u backend.User) error {
	a.mu.RLock()
	var small []uint64
	indexed := 0
	for id, h := range a.heads {
		indexed += len(h.guids)
		if len(h.guids) < batchMessages {
			small = append(small, id)
		}
	}
	a.mu.RUnlock()
	boxes, err := u.Mailboxes(ctx)
	if err != nil {
		return err
	}
	there := 0
	for _, m := range boxes {
		there += int(m.Messages)
	}
	if indexed > 2*there+batchMessages {
		return x.compact(ctx, a, u, boxes)
	}
	if len(small) < smallBlocks {
		return nil
	}
	return x.join(ctx, a, small, func(backend.GUID) bool { return true })
}

// join makes blocks of up to mostMessages out of others.
func (x *Index) join(ctx context.Context, a *account, ids []uint64, live func(backend.GUID) bool) error {
	slices.Sort(ids)
	b, taken := newBuilder(), []uint64(nil)
	for _, id := range ids {
		a.mu.RLock()
		h, there := a.heads[id]
		a.mu.RUnlock()
		if !there {
			return nil // it was forgotten meanwhile
		}
		old, err := x.block(a, id, h)
		if err != nil {
			return err
		}
		if len(b.guids)+len(h.guids) > mostMessages {
			if err := x.write(ctx, a, b, taken); err != nil {
				return err
			}
			b, taken = newBuilder(), nil
		}
		if err := b.merge(old, live); err != nil {
			return err
		}
		taken = append(taken, id)
	}
	return x.write(ctx, a, b, taken)
}

// compact leaves out the messages that are in no mailbox any more.
func (x *Index) compact(ctx context.Context, a *account, u backend.User, boxes []backend.Mailbox) error {
	live := make(map[backend.GUID]bool)
	for _, m := range boxes {
		v, err := u.View(ctx, m.ID)
		if errors.Is(err, backend.ErrNoMailbox) {
			continue
		}
		if err != nil {
			return err
		}
		for _, msg := range v.Messages.All() {
			live[msg.GUID] = true
		}
	}
	a.mu.RLock()
	var all []uint64
	for id := range a.heads {
		all = append(all, id)
	}
	a.mu.RUnlock()
	x.log.Debug("text index compacted", zap.String("user", a.name), zap.Int("messages", len(live)))
	return x.join(ctx, a, all, func(g backend.GUID) bool { return live[g] })
}
