package imap

import (
	"context"
	"iter"
	"slices"

	"switchyard/backend"
	"switchyard/backend/imap/syntax"
)

// vanishes reports whether expunges are announced by UID: with QRESYNC
// (RFC 7162 §3.2.10) and UIDONLY (RFC 9586 §3), never for IMAP4rev2 alone.
func (s *session) vanishes() bool { return s.qresync || s.uidOnly }

// addHighest adds the code HIGHESTMODSEQ to an answer. The number covers only
// what the client has been told: with an expunge still to be announced there
// is none, since a client that believed it would never learn of the expunge
// (RFC 5162, erratum 1810).
func (s *session) addHighest(r *reply) {
	if s.qresync && r.status == "OK" && r.code == "" && s.box != nil && !s.box.dirty {
		r.code = "HIGHESTMODSEQ " + itoa(int64(s.box.modSeq))
	}
}

// resync answers SELECT (QRESYNC (…)) behind the mailbox's description: what
// has changed and what has gone since the client's last visit.
func (s *session) resync(ctx context.Context, q syntax.QResync, view backend.View) error {
	if q.UIDValidity != view.Mailbox.UIDValidity {
		return nil // RFC 7162 §3.2.5: the client must begin anew
	}
	top := uint32(view.Mailbox.UIDNext) - 1
	if top == 0 {
		return nil // there never was a message
	}
	known := []syntax.Range{{First: 1, Last: top}}
	if q.Known != nil {
		known = q.Known.Resolve(top)
	}
	since := backend.ModSeq(q.ModSeq)
	if err := s.sendVanished(ctx, since, known, matched(view.Messages, q), top); err != nil {
		return err
	}
	for i, m := range view.Messages.All() {
		if m.ModSeq > since && syntax.Contains(known, uint32(m.UID)) {
			s.sendFlags(i, m)
		}
	}
	return nil
}

// matched returns the highest UID of the sequence match data that has its
// number still: the client knows of all expunges up to there
// (RFC 7162 §3.2.5.2).
func matched(messages backend.Messages, q syntax.QResync) backend.UID {
	var top backend.UID
	next, stop := iter.Pull(inOrder(q.UIDs))
	defer stop()
	for n := range inOrder(q.Numbers) {
		uid, more := next()
		if !more || int64(n) > int64(messages.Len()) {
			break
		}
		if messages.At(int(n)-1).UID == backend.UID(uid) {
			top = max(top, backend.UID(uid))
		}
	}
	return top
}

// inOrder yields a set's numbers as the client wrote them. Sets may be huge:
// whoever reads must stop.
func inOrder(set syntax.Set) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for _, r := range set.Ranges {
			for n := uint64(min(r.First, r.Last)); n <= uint64(max(r.First, r.Last)); n++ {
				if !yield(uint32(n)) {
					return
				}
			}
		}
	}
}

// sendVanished sends VANISHED (EARLIER): the UIDs within ranges, above the UID
// matched and up to top, that were expunged after since. When the store does
// not remember that far back, these are all that are not there
// (RFC 7162 §3.2.6). Messages whose expunge this session has yet to announce
// are left out: they are announced the usual way.
func (s *session) sendVanished(ctx context.Context, since backend.ModSeq, ranges []syntax.Range, matched backend.UID, top uint32) error {
	uids, remembered, err := s.user.Vanished(ctx, s.box.id, since)
	if err != nil {
		return err
	}
	var set []byte
	if remembered {
		uids = slices.DeleteFunc(uids, func(uid backend.UID) bool {
			_, here := s.box.known.Find(uid)
			return here || uid <= matched || uint32(uid) > top || !syntax.Contains(ranges, uint32(uid))
		})
		set = syntax.AppendSet(nil, slices.Values(uids))
	} else {
		set = syntax.AppendRanges(nil, missing(s.box.known, ranges, uint32(matched)+1, top))
	}
	if len(set) > 0 {
		s.out.Raw("* VANISHED (EARLIER) ").Bytes(set).End()
	}
	return nil
}

// missing yields the runs of UIDs within ranges, from first to last, that no
// message has. Ranges ascend. The cost depends on the messages and the ranges,
// not on how far they reach.
func missing(messages backend.Messages, ranges []syntax.Range, first, last uint32) iter.Seq[syntax.Range] {
	return func(yield func(syntax.Range) bool) {
		for _, r := range ranges {
			from, to := max(r.First, first), min(r.Last, last)
			if from > to {
				continue
			}
			i, _ := messages.Find(backend.UID(from))
			for ; i < messages.Len() && from <= to; i++ {
				uid := uint32(messages.At(i).UID)
				if uid > to {
					break
				}
				if uid > from && !yield(syntax.Range{First: from, Last: uid - 1}) {
					return
				}
				if uid == to {
					from = to + 1
					break
				}
				from = uid + 1
			}
			if from <= to && from != 0 && !yield(syntax.Range{First: from, Last: to}) {
				return
			}
		}
	}
}
