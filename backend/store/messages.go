package store

import (
	"context"
	"slices"
	"strings"

	"switchyard/backend"
	"switchyard/backend/effect"
)

// pick returns the messages among uids that are there, ascending, each once;
// uids nil means all.
func pick(messages backend.Messages, uids []backend.UID) []*backend.Message {
	if uids == nil {
		all := make([]*backend.Message, 0, messages.Len())
		for _, m := range messages.All() {
			all = append(all, m)
		}
		return all
	}
	sorted := slices.Clone(uids)
	slices.Sort(sorted)
	return messages.Select(slices.Compact(sorted))
}

func uidsOf(messages []*backend.Message) []backend.UID {
	uids := make([]backend.UID, len(messages))
	for i, m := range messages {
		uids[i] = m.UID
	}
	return uids
}

// SetFlags implements backend.User.
func (m *mail) SetFlags(ctx context.Context, mailbox backend.GUID, uids []backend.UID, change backend.FlagChange) (now []backend.Message, held []backend.UID, err error) {
	u := m.u
	leave, err := u.s.enter()
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	given, err := canonicalFlags(change.Flags)
	if err != nil {
		return nil, nil, err
	}
	err = u.change(ctx, func(t *tx) error {
		v, err := u.loadView(mailbox)
		if err != nil {
			return err
		}
		if uids == nil {
			return nil
		}
		plan := flagPlan{
			mailbox: mailbox, modSeq: v.Mailbox.HighestModSeq + 1, op: change.Op, given: given, sets: make(map[string]int),
		}
		found := pick(v.Messages, uids)
		now = make([]backend.Message, 0, len(found))
		for i, msg := range found {
			if change.UnchangedSince > 0 && msg.ModSeq > change.UnchangedSince {
				held = append(held, msg.UID)
				now = append(now, *msg)
				continue
			}
			after, err := plan.add(msg, len(found)-i)
			if err != nil {
				return err
			}
			now = append(now, after)
		}
		for _, e := range plan.effects {
			if err := t.apply(e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return now, held, nil
}

// flagPlan collects changes of flags, those with equal results together.
type flagPlan struct {
	mailbox backend.GUID
	modSeq  backend.ModSeq
	op      backend.FlagOp
	given   []string
	sets    map[string]int // index of effects by the flags joined
	effects []effect.FlagsSet

	// The flags of the message before, and what became of them: neighbours are
	// often alike.
	last    []string
	lastSet int // index of effects; -1: no change; meaningless before the first
	any     bool
}

// add plans new flags for a message and returns it as it will be. left is how
// many messages may come, this one included.
func (p *flagPlan) add(m *backend.Message, left int) (backend.Message, error) {
	after := *m
	if !p.any || !slices.Equal(m.Flags, p.last) {
		set, err := p.set(m.Flags)
		if err != nil {
			return after, err
		}
		p.any, p.last, p.lastSet = true, m.Flags, set
	}
	if p.lastSet < 0 {
		return after, nil
	}
	e := &p.effects[p.lastSet]
	if e.UIDs == nil && p.lastSet == 0 {
		e.UIDs = make([]backend.UID, 0, left)
	}
	e.UIDs = append(e.UIDs, m.UID)
	after.Flags, after.ModSeq = e.Flags, p.modSeq
	return after, nil
}

// set returns the index of the effect for messages with these flags, -1 when
// they do not change.
func (p *flagPlan) set(old []string) (int, error) {
	flags := changeFlags(old, p.op, p.given)
	if slices.Equal(old, flags) {
		return -1, nil
	}
	if tooManyKeywords(flags) {
		return 0, backend.ErrTooMany
	}
	key := strings.Join(flags, " ")
	i, ok := p.sets[key]
	if !ok {
		i = len(p.effects)
		p.sets[key] = i
		p.effects = append(p.effects, effect.FlagsSet{Mailbox: p.mailbox, ModSeq: p.modSeq, Flags: flags})
	}
	return i, nil
}

// Copy implements backend.User.
func (m *mail) Copy(ctx context.Context, mailbox backend.GUID, uids []backend.UID, to string) (backend.Copied, error) {
	return m.transfer(ctx, mailbox, uids, to, false)
}

// Move implements backend.User.
func (m *mail) Move(ctx context.Context, mailbox backend.GUID, uids []backend.UID, to string) (backend.Copied, error) {
	return m.transfer(ctx, mailbox, uids, to, true)
}

func (m *mail) transfer(ctx context.Context, mailbox backend.GUID, uids []backend.UID, to string, move bool) (out backend.Copied, err error) {
	u := m.u
	leave, err := u.s.enter()
	if err != nil {
		return out, err
	}
	defer leave()
	if to, err = canonicalName(to); err != nil {
		return out, backend.ErrNoMailbox
	}
	if err := u.s.space.check(0); err != nil && !move {
		return out, err
	}
	err = u.change(ctx, func(t *tx) error {
		v, err := u.loadView(mailbox)
		if err != nil {
			return err
		}
		dest, ok := t.named(to)
		if !ok {
			return backend.ErrNoMailbox
		}
		out = backend.Copied{Mailbox: dest.ID, UIDValidity: dest.UIDValidity}
		if len(uids) == 0 {
			return nil
		}
		found := pick(v.Messages, uids)
		if err := uidsLeft(dest, len(found)); err != nil {
			return err
		}
		if !move {
			var size int64
			for _, msg := range found {
				size += msg.Size
			}
			if err := t.room(size, len(found)); err != nil {
				return err
			}
		}
		out.Source = uidsOf(found)
		if out.Dest, err = t.copy(dest.ID, found); err != nil || !move {
			return err
		}
		return t.remove(mailbox, found)
	})
	if err != nil {
		return backend.Copied{}, err
	}
	return out, nil
}

// copy adds messages to a mailbox as they are, with new UIDs.
func (t *tx) copy(to backend.GUID, messages []*backend.Message) ([]backend.UID, error) {
	var uids []backend.UID
	b, ok := t.peek(to)
	if !ok {
		return nil, backend.ErrNoMailbox
	}
	uid, seq := b.UIDNext, b.HighestModSeq+1
	for _, m := range messages {
		added := *m
		added.UID, added.ModSeq, added.SaveDate = uid, seq, t.seconds()
		if err := t.apply(effect.MessageAdded{Mailbox: to, Message: added}); err != nil {
			return nil, err
		}
		uids = append(uids, uid)
		uid++
	}
	return uids, nil
}

// remove expunges messages.
func (t *tx) remove(mailbox backend.GUID, messages []*backend.Message) error {
	if len(messages) == 0 {
		return nil
	}
	b, ok := t.peek(mailbox)
	if !ok {
		return backend.ErrNoMailbox
	}
	return t.apply(effect.Expunged{Mailbox: mailbox, ModSeq: b.HighestModSeq + 1, UIDs: uidsOf(messages)})
}

// Expunge implements backend.User.
func (m *mail) Expunge(ctx context.Context, mailbox backend.GUID, uids []backend.UID, onlyDeleted bool) (gone []backend.UID, err error) {
	u := m.u
	leave, err := u.s.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	err = u.change(ctx, func(t *tx) error {
		v, err := u.loadView(mailbox)
		if err != nil {
			return err
		}
		found := pick(v.Messages, uids)
		if onlyDeleted {
			found = slices.DeleteFunc(found, func(m *backend.Message) bool {
				return !slices.Contains(m.Flags, backend.FlagDeleted)
			})
		}
		gone = uidsOf(found)
		return t.remove(mailbox, found)
	})
	if err != nil {
		return nil, err
	}
	return gone, nil
}
