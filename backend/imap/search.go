package imap

import (
	"context"
	"slices"

	"switchyard/backend"
	"switchyard/backend/imap/search"
	"switchyard/backend/imap/syntax"
)

func (s *session) search(ctx context.Context) (reply, error)    { return s.runSearch(ctx, false) }
func (s *session) uidSearch(ctx context.Context) (reply, error) { return s.runSearch(ctx, true) }
func (s *session) sort(ctx context.Context) (reply, error)      { return s.runSort(ctx, false) }
func (s *session) uidSort(ctx context.Context) (reply, error)   { return s.runSort(ctx, true) }
func (s *session) thread(ctx context.Context) (reply, error)    { return s.runThread(ctx, false) }
func (s *session) uidThread(ctx context.Context) (reply, error) { return s.runThread(ctx, true) }

// runSearch serves SEARCH and UID SEARCH.
func (s *session) runSearch(ctx context.Context, byUID bool) (reply, error) {
	cmd, err := s.lex.Search()
	if err != nil {
		return reply{}, err
	}
	found, _, r, err := s.find(ctx, cmd)
	if r.status != "" || err != nil {
		return s.searchFailed(cmd, r, err)
	}
	s.save(cmd, found)
	if cmd.Extended || s.rev2 {
		s.sendESearch(cmd, found, byUID)
	} else {
		s.sendFound("SEARCH", cmd, found, byUID)
	}
	return s.searched(cmd)
}

// runSort serves SORT and UID SORT (RFC 5256), with return options (RFC 5267).
func (s *session) runSort(ctx context.Context, byUID bool) (reply, error) {
	cmd, err := s.lex.Sort()
	if err != nil {
		return reply{}, err
	}
	found, box, r, err := s.find(ctx, cmd.Search)
	if err == nil && r.status == "" {
		found, err = box.Sort(ctx, found, cmd.By)
		s.box.dirty = s.box.dirty || box.Gone
	}
	if r.status != "" || err != nil {
		return s.searchFailed(cmd.Search, r, err)
	}
	s.save(cmd.Search, found)
	if cmd.Extended {
		s.sendESearch(cmd.Search, found, byUID)
	} else {
		s.sendFound("SORT", cmd.Search, found, byUID)
	}
	return s.searched(cmd.Search)
}

// runThread serves THREAD and UID THREAD (RFC 5256).
func (s *session) runThread(ctx context.Context, byUID bool) (reply, error) {
	cmd, err := s.lex.Thread()
	if err != nil {
		return reply{}, err
	}
	found, box, r, err := s.find(ctx, cmd.Search)
	if r.status != "" || err != nil {
		return r, err
	}
	forest, err := box.Thread(ctx, found, cmd.By)
	if err != nil {
		return reply{}, err
	}
	s.box.dirty = s.box.dirty || box.Gone
	s.out.Raw("* THREAD")
	if threads := forest.Append(nil, func(i int) uint32 { return s.number(i, byUID) }); len(threads) > 0 {
		s.out.Raw(" ").Bytes(threads)
	}
	s.out.End()
	return s.searched(cmd.Search)
}

// find runs a search. When it may not be run, r says why.
func (s *session) find(ctx context.Context, cmd syntax.Search) (found []int, box *search.Mailbox, r reply, err error) {
	switch {
	case cmd.Numbers && s.uidOnly:
		return nil, nil, uidRequired(), nil
	case !cmd.KnownCharset():
		return nil, nil, reply{status: "NO", code: "BADCHARSET (UTF-8 US-ASCII)", text: "The charset is not supported"}, nil
	}
	s.condstore = s.condstore || cmd.ModSeq
	box = &search.Mailbox{User: s.user, ID: s.box.id, Messages: s.box.known, Saved: s.box.saved, Cache: s.srv.cache, Index: s.srv.o.Index}
	found, err = box.Find(ctx, cmd.Key)
	s.box.dirty = s.box.dirty || box.Gone // expunged by another session
	return found, box, reply{}, err
}

// searched is the answer to a search that was run. Message numbers among the
// keys must mean the same until the end (RFC 9051 §7.5.1).
func (s *session) searched(cmd syntax.Search) (reply, error) {
	return reply{status: "OK", text: "Done", keepNumbers: cmd.Numbers}, nil
}

// searchFailed empties the saved result, as RFC 5182 §2.1 wants when a search
// that should have saved one is answered NO.
func (s *session) searchFailed(cmd syntax.Search, r reply, err error) (reply, error) {
	if cmd.Save && r.status != "BAD" {
		s.box.saved = nil
	}
	return r, err
}

// save keeps the result that $ stands for, when it is wanted.
func (s *session) save(cmd syntax.Search, found []int) {
	if cmd.Save {
		uids := s.box.uids(saves(cmd, found))
		slices.Sort(uids)
		s.box.saved = slices.Compact(uids)
	}
}

// saves picks what SAVE keeps: with MIN, MAX or PARTIAL and nothing else only
// those (RFC 5182 §2.4, RFC 9394 §3.2).
func saves(cmd syntax.Search, found []int) []int {
	partial := cmd.Partial.First != 0
	if len(found) == 0 || cmd.All || cmd.Count || !cmd.Min && !cmd.Max && !partial {
		return found
	}
	var out []int
	if partial {
		from, to := cmd.Partial.Of(len(found))
		out = slices.Clone(found[from:to])
	}
	if cmd.Min {
		out = append(out, found[0])
	}
	if cmd.Max {
		out = append(out, found[len(found)-1])
	}
	return out
}

// number is how the answer names the message at a position.
func (s *session) number(i int, byUID bool) uint32 {
	if byUID {
		return uint32(s.box.known.At(i).UID)
	}
	return uint32(i + 1)
}

// sendFound sends SEARCH or SORT.
func (s *session) sendFound(name string, cmd syntax.Search, found []int, byUID bool) {
	s.out.Raw("* ").Raw(name)
	for _, i := range found {
		s.out.Raw(" ").Num(uint64(s.number(i, byUID)))
	}
	if cmd.ModSeq && len(found) > 0 {
		s.out.Raw(" (MODSEQ ").Num(uint64(s.highestModSeq(found))).Raw(")")
	}
	s.out.End()
}

func (s *session) highestModSeq(positions []int) backend.ModSeq {
	var top backend.ModSeq
	for _, i := range positions {
		top = max(top, s.box.known.At(i).ModSeq)
	}
	return top
}

// sendESearch sends the extended answer (RFC 9051 §7.3.4), to SORT in the
// order of the results (RFC 5267 §3).
func (s *session) sendESearch(cmd syntax.Search, found []int, byUID bool) {
	if !cmd.Extended {
		cmd.All = true // IMAP4rev2 has no other answer
	}
	partial := cmd.Partial.First != 0
	if cmd.Save && !cmd.Min && !cmd.Max && !cmd.All && !cmd.Count && !partial {
		return // nothing but SAVE was asked for
	}
	s.out.Raw("* ESEARCH (TAG ").String(s.tag).Raw(")")
	if byUID {
		s.out.Raw(" UID")
	}
	if n := len(found); n > 0 {
		if cmd.Min {
			s.out.Raw(" MIN ").Num(uint64(s.number(found[0], byUID)))
		}
		if cmd.Max {
			s.out.Raw(" MAX ").Num(uint64(s.number(found[n-1], byUID)))
		}
		if cmd.All {
			s.out.Raw(" ALL ").Bytes(s.foundSet(found, byUID))
		}
	}
	if partial {
		s.out.Raw(" PARTIAL (").Raw(cmd.Partial.String()).Raw(" ")
		if from, to := cmd.Partial.Of(len(found)); from < to {
			s.out.Bytes(s.foundSet(found[from:to], byUID)).Raw(")")
		} else {
			s.out.Raw("NIL)")
		}
	}
	if cmd.Count {
		s.out.Raw(" COUNT ").Num(uint64(len(found)))
	}
	if cmd.ModSeq && len(found) > 0 {
		s.out.Raw(" MODSEQ ").Num(uint64(s.highestModSeq(saves(cmd, found))))
	}
	s.out.End()
}

// foundSet writes results as a set, in their order.
func (s *session) foundSet(found []int, byUID bool) []byte {
	return syntax.AppendSet(nil, func(yield func(uint32) bool) {
		for _, i := range found {
			if !yield(s.number(i, byUID)) {
				return
			}
		}
	})
}
