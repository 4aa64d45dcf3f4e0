package imap

import (
	"context"
	"errors"
	"slices"

	"switchyard/backend"
	"switchyard/backend/imap/syntax"
	"switchyard/internal/message"
)

func (s *session) search(ctx context.Context) (reply, error)    { return s.runSearch(ctx, false) }
func (s *session) uidSearch(ctx context.Context) (reply, error) { return s.runSearch(ctx, true) }

// runSearch serves SEARCH and UID SEARCH.
func (s *session) runSearch(ctx context.Context, byUID bool) (reply, error) {
	cmd, err := s.lex.Search()
	if err != nil {
		return reply{}, err
	}
	if cmd.ModSeq {
		s.condstore = true
	}
	if !cmd.KnownCharset() {
		return s.searchFailed(cmd, reply{"NO", "BADCHARSET (UTF-8 US-ASCII)", "The charset is not supported"}, nil)
	}
	found, err := s.find(ctx, cmd.Key)
	if err != nil {
		return s.searchFailed(cmd, reply{}, err)
	}
	if cmd.Save {
		s.box.saved = s.box.uids(saves(cmd, found))
	}
	if cmd.Extended || s.rev2 {
		s.sendESearch(cmd, found, byUID)
	} else {
		s.sendSearch(cmd, found, byUID)
	}
	return ok("Done")
}

// searchFailed empties the saved result, as RFC 5182 §2.1 wants when a search
// that should have saved one is answered NO.
func (s *session) searchFailed(cmd syntax.Search, r reply, err error) (reply, error) {
	if cmd.Save {
		s.box.saved = nil
	}
	return r, err
}

// saves picks what SAVE keeps: with MIN or MAX alone only those
// (RFC 5182 §2.4).
func saves(cmd syntax.Search, found []int) []int {
	if len(found) == 0 || cmd.All || cmd.Count || !cmd.Min && !cmd.Max {
		return found
	}
	first, last := found[0], found[len(found)-1]
	switch {
	case !cmd.Max:
		return []int{first}
	case !cmd.Min || first == last:
		return []int{last}
	default:
		return []int{first, last}
	}
}

// number is how the answer names the message at a position.
func (s *session) number(i int, byUID bool) uint32 {
	if byUID {
		return uint32(s.box.known.At(i).UID)
	}
	return uint32(i + 1)
}

func (s *session) sendSearch(cmd syntax.Search, found []int, byUID bool) {
	s.out.Raw("* SEARCH")
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

// sendESearch sends the extended answer (RFC 9051 §7.3.4).
func (s *session) sendESearch(cmd syntax.Search, found []int, byUID bool) {
	if !cmd.Extended {
		cmd.All = true // IMAP4rev2 has no other answer
	}
	if cmd.Save && !cmd.Min && !cmd.Max && !cmd.All && !cmd.Count {
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
			s.out.Raw(" ALL ").Bytes(syntax.AppendSet(nil, func(yield func(uint32) bool) {
				for _, i := range found {
					if !yield(s.number(i, byUID)) {
						return
					}
				}
			}))
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

// find returns the positions of the messages that match, ascending.
func (s *session) find(ctx context.Context, key syntax.Key) ([]int, error) {
	match := s.compile(key).test
	var found []int
	for i, m := range s.box.known.All() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c := candidate{session: s, ctx: ctx, position: i, Message: m}
		hit, err := match(&c)
		c.close()
		if errors.Is(err, backend.ErrNoMessage) {
			s.box.dirty = true // expunged by another session: no match
			continue
		}
		if err != nil {
			return nil, err
		}
		if hit {
			found = append(found, i)
		}
	}
	return found, nil
}

// candidate is a message that a search looks at. What is on disk is opened
// when a key asks for it.
type candidate struct {
	*session
	*backend.Message
	ctx      context.Context
	position int
	root     *message.Part
	content  backend.Body
}

func (c *candidate) structure() (*message.Part, error) {
	if c.root == nil {
		root, err := c.user.Structure(c.ctx, c.box.id, c.UID)
		if err != nil {
			return nil, err
		}
		c.root = root
	}
	return c.root, nil
}

func (c *candidate) open() (backend.Body, *message.Part, error) {
	root, err := c.structure()
	if err != nil {
		return nil, nil, err
	}
	if c.content == nil {
		if c.content, err = c.user.Body(c.ctx, c.box.id, c.UID); err != nil {
			return nil, nil, err
		}
	}
	return c.content, root, nil
}

func (c *candidate) close() {
	if c.content != nil {
		c.content.Close()
	}
}

func (c *candidate) hasFlag(flag string) bool { return slices.ContainsFunc(c.Flags, equalFold(flag)) }
