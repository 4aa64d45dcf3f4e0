package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/store/rows"
)

// maxFindings bounds what one Check tells.
const maxFindings = 100

// Check looks for broken invariants: counters and digests against the
// messages, bodies against the messages that have them, the log's order, what
// is in memory against what is on disk. It opens every body, and reads those of
// up to a frame. Each account is locked while it is looked at; the answer is
// about the accounts and the queue one by one, and about the segments only when
// nothing else was going on. An account that is shut off is a finding.
func (s *Store) Check(ctx context.Context) error {
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	c := &checker{s: s, live: make(map[uint32]rows.Live)}
	shut := s.Quarantined()
	for _, q := range shut {
		c.found("%q is shut off since record %d of shard %d: %s", q.Account, q.Seq, q.Shard, q.Reason)
	}
	if s.quarantine.of("") == nil {
		if err := c.user(ctx, s.queue); err != nil {
			return err
		}
	}
	for _, db := range s.dbs {
		var accounts []string
		err := rows.Scan(db, []byte{rows.SpaceName}, func(key, _ []byte) error {
			accounts = append(accounts, string(key[1:]))
			return nil
		})
		if err != nil {
			return err
		}
		for _, account := range accounts {
			if s.quarantine.of(account) != nil {
				continue
			}
			u, err := s.user(account)
			if err != nil {
				return err
			}
			if err := c.user(ctx, u); err != nil {
				return err
			}
		}
	}
	if len(shut) == 0 {
		c.segments()
	}
	if err := c.logs(); err != nil {
		return err
	}
	return errors.Join(c.findings...)
}

// checker collects what is wrong.
type checker struct {
	s        *Store
	live     map[uint32]rows.Live // what the bodies come to
	findings []error
}

func (c *checker) found(format string, args ...any) {
	if len(c.findings) < maxFindings {
		c.findings = append(c.findings, fmt.Errorf(format, args...))
	}
}

// user checks one account. The error is the disk's.
func (c *checker) user(ctx context.Context, u *user) error {
	if err := u.acquire(ctx); err != nil {
		return err
	}
	defer u.unlock()
	on := newUser(c.s, u.account) // as it is on disk
	if err := on.load(); err != nil {
		return err
	}
	if on.row != u.row || !maps.EqualFunc(on.boxes, u.boxes, func(a, b *box) bool { return a.Box == b.Box }) ||
		!maps.Equal(on.subs, u.subs) {
		c.found("%q: memory and disk differ", u.account)
	}
	refs := make(map[backend.GUID]uint64)
	for id, b := range on.boxes {
		if on.names[b.Name] != b {
			c.found("%q: two mailboxes are called %q", u.account, b.Name)
		}
		if b.UIDValidity > on.row.LastUIDValidity {
			c.found("%q: uidvalidity of %q is above the last one given", u.account, b.Name)
		}
		if err := c.box(on, b, u.boxes[id], refs); err != nil {
			return err
		}
	}
	err := rows.Scan(u.db, rows.KeyUser(on.row.ID, rows.RowQueue), func(_, value []byte) error {
		var row rows.Entry
		err := row.Read(value)
		refs[row.Body]++
		return err
	})
	if err != nil {
		return err
	}
	return c.bodies(on, refs)
}

// box checks a mailbox as it is on disk, and the messages in memory.
func (c *checker) box(on *user, b, mem *box, refs map[backend.GUID]uint64) error {
	want := rows.Box{Mailbox: backend.Mailbox{
		ID: b.ID, Name: b.Name, Use: b.Use, UIDValidity: b.UIDValidity, UIDNext: b.UIDNext, HighestModSeq: b.HighestModSeq,
	}, Floor: b.Floor}
	list, err := on.readMessages(&b.Box)
	if err != nil {
		return err
	}
	for i := range list {
		m := &list[i]
		want.Count(m, 1)
		refs[m.GUID]++
		if m.UID >= b.UIDNext || m.ModSeq > b.HighestModSeq || m.ModSeq == 0 {
			c.found("%q: message %d of %q is beyond the mailbox's uidnext or modseq", on.account, m.UID, b.Name)
		}
		if mem != nil && mem.loaded {
			if i >= mem.messages.Len() || !equalMessages(mem.messages.At(i), m) {
				c.found("%q: message %d of %q differs in memory", on.account, m.UID, b.Name)
			}
		}
	}
	if mem != nil && mem.loaded && mem.messages.Len() != len(list) {
		c.found("%q: %q has %d messages in memory, %d on disk", on.account, b.Name, mem.messages.Len(), len(list))
	}
	prefix := rows.KeyUser(on.row.ID, rows.RowTombstone, b.ID[:]...)
	err = rows.Scan(on.db, prefix, func(key, value []byte) error {
		_, seq, uid, err := rows.ParseTombstone(key)
		if err != nil {
			return err
		}
		want.Tombstones++
		if seq > b.HighestModSeq || uid >= b.UIDNext {
			c.found("%q: a tombstone of %q is beyond the mailbox", on.account, b.Name)
		}
		var row rows.Tombstone
		return row.Read(value)
	})
	if err != nil {
		return err
	}
	err = rows.Scan(on.db, rows.KeyUser(on.row.ID, rows.RowFlags, b.ID[:]...), func(key, value []byte) error {
		var row rows.Flags
		err := row.Read(value)
		want.Overlaid += uint64(len(row.UIDs))
		return err
	})
	if want != b.Box {
		c.found("%q: mailbox %q counts %+v, its rows say %+v", on.account, b.Name, b.Box, want)
	}
	return err
}

func equalMessages(a, b *backend.Message) bool {
	return a.UID == b.UID && string(effect.AppendMessage(nil, a)) == string(effect.AppendMessage(nil, b))
}

// bodies checks an account's bodies against the references counted.
func (c *checker) bodies(on *user, refs map[backend.GUID]uint64) error {
	err := rows.Scan(on.db, rows.KeyUser(on.row.ID, rows.RowBody), func(key, value []byte) error {
		guid, err := rows.ParseGUID(key)
		if err != nil {
			return err
		}
		var row rows.Body
		if err := row.Read(value); err != nil {
			return err
		}
		if row.Refs != refs[guid] {
			c.found("%q: body %s counts %d references, there are %d", on.account, guid, row.Refs, refs[guid])
		}
		delete(refs, guid)
		if row.Refs == 0 {
			return nil
		}
		l := c.live[row.Segment]
		c.live[row.Segment] = rows.Live{Bodies: l.Bodies + 1, Bytes: l.Bytes + row.Length}
		body, err := c.s.segments.Body(row.Place, guid)
		if err != nil {
			c.found("%q: body %s: %w", on.account, guid, err)
			return nil
		}
		return body.Close()
	})
	for guid := range refs {
		c.found("%q: body %s is nowhere", on.account, guid)
	}
	return err
}

// segments checks the counts of live bodies.
func (c *checker) segments() {
	c.s.live.mu.Lock()
	defer c.s.live.mu.Unlock()
	for id, row := range c.s.live.rows {
		if row != c.live[id] {
			c.found("segment %d counts %+v live, there are %+v", id, row, c.live[id])
		}
		delete(c.live, id)
	}
	for id := range c.live {
		c.found("segment %d has live bodies, but no count", id)
	}
}

// logs checks that the shards' logs have no gaps and end where the state is.
func (c *checker) logs() error {
	for i := range c.s.shards {
		sh, shard := &c.s.shards[i], uint8(i)
		sh.turn.Lock()
		applied := sh.applied
		sh.turn.Unlock()
		var seqs []uint64
		err := rows.Scan(c.s.dbOf(shard), []byte{rows.SpaceLog, shard}, func(_, value []byte) error {
			r, err := effect.DecodeRecord(value)
			if err == nil {
				seqs = append(seqs, r.Seq)
			}
			return err
		})
		if err != nil {
			return err
		}
		if len(seqs) > 0 && (seqs[len(seqs)-1] < applied || seqs[len(seqs)-1]-seqs[0] != uint64(len(seqs)-1)) || !slices.IsSorted(seqs) {
			c.found("the log of shard %d has gaps, or ends at %d before %d", shard, seqs[len(seqs)-1], applied)
		}
		if err := c.arrived(shard, applied); err != nil {
			return err
		}
	}
	return nil
}

// arrived checks that bodies which came from the other node, and are no
// message's, belong to records that are not applied.
func (c *checker) arrived(shard uint8, applied uint64) error {
	wanted := make(map[backend.GUID]bool)
	db := c.s.dbOf(shard)
	err := rows.ScanRange(db, rows.KeyLog(shard, applied+1), rows.After([]byte{rows.SpaceLog, shard}), func(_, value []byte) error {
		r, err := effect.DecodeRecord(value)
		if err == nil {
			for _, guid := range bodiesOf(r) {
				wanted[guid] = true
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	return rows.Scan(db, []byte{rows.SpaceArrived, shard}, func(key, _ []byte) error {
		guid, err := rows.ParseArrived(key)
		if err == nil && !wanted[guid] {
			c.found("body %s came for no record of shard %d", guid, shard)
		}
		return err
	})
}
