package imap

import (
	"context"
	"errors"
	"slices"

	"switchyard/backend"
	"switchyard/backend/imap/syntax"
	"switchyard/internal/message"
)

func (s *session) fetch(ctx context.Context) (reply, error)    { return s.runFetch(ctx, false) }
func (s *session) uidFetch(ctx context.Context) (reply, error) { return s.runFetch(ctx, true) }

// fetchBatch is how many messages are marked \Seen at a time, so that a client
// that leaves in the middle has not marked what it did not get.
const fetchBatch = 50

// runFetch serves FETCH and UID FETCH.
func (s *session) runFetch(ctx context.Context, byUID bool) (reply, error) {
	set, err := s.plainSetArgument()
	if err != nil {
		return reply{}, err
	}
	positions, err := s.resolve(set, byUID)
	if err != nil {
		return reply{}, err
	}
	if err := s.lex.SP(); err != nil {
		return reply{}, err
	}
	cmd, err := s.lex.FetchItems()
	if err != nil {
		return reply{}, err
	}
	if err := s.mayModify(cmd, byUID); err != nil {
		return reply{}, err
	}
	f := s.newFetcher(cmd, byUID)
	if cmd.Vanished && !set.Saved {
		// Here * reaches up to the last UID given, so that expunges at the
		// end are reported too.
		top := uint32(s.box.uidNext) - 1
		if err := s.sendVanished(ctx, backend.ModSeq(cmd.ChangedSince), set.Resolve(top), 0, top); err != nil {
			return reply{}, err
		}
	}
	// RFC 9394 §3.4: PARTIAL comes first, whatever the order of the two.
	from, to := cmd.Partial.Of(len(positions))
	positions = positions[from:to]
	if cmd.Changed {
		positions = slices.DeleteFunc(positions, func(i int) bool {
			return int64(s.box.known.At(i).ModSeq) <= cmd.ChangedSince
		})
	}
	for batch := range slices.Chunk(positions, fetchBatch) {
		if err := f.mark(ctx, batch); err != nil {
			return reply{}, err
		}
		for _, i := range batch {
			if err := f.message(ctx, i); err != nil {
				return reply{}, err
			}
		}
	}
	if f.gone && !byUID {
		// RFC 2180 §4.1.2: what is there was sent; the client must be told
		// that something is missing. UIDs that are gone need no word.
		return reply{}, backend.ErrNoMessage
	}
	return ok("Done")
}

// mayModify checks the modifiers that only UID FETCH has, and VANISHED's
// condition (RFC 7162 §3.2.6, RFC 9394 §3.3).
func (s *session) mayModify(cmd syntax.Fetch, byUID bool) error {
	switch {
	case cmd.Vanished && !s.qresync:
		return syntax.Errorf("QRESYNC must be enabled first")
	case !byUID && (cmd.Vanished || cmd.Partial.First != 0):
		return syntax.Errorf("VANISHED and PARTIAL are UID FETCH's")
	}
	return nil
}

// fetcher answers one FETCH.
type fetcher struct {
	*session
	items     []syntax.Item
	marks     bool // some item sets \Seen
	structure bool // some item needs the structure
	body      bool // some item needs the bytes
	modSeq    bool // MODSEQ is an item
	uid       bool // UID is one
	gone      bool // a message was expunged meanwhile
	seen      []backend.UID
	buf       []byte // for bodies
}

func (s *session) newFetcher(cmd syntax.Fetch, byUID bool) *fetcher {
	f := &fetcher{session: s, items: cmd.Items}
	has := func(kind syntax.ItemKind) bool {
		return slices.ContainsFunc(f.items, func(i syntax.Item) bool { return i.Kind == kind })
	}
	switch {
	case s.uidOnly && slices.ContainsFunc(f.items, func(i syntax.Item) bool { return i.Kind != syntax.UID }):
		// UIDFETCH begins with it: nobody needs it twice.
		f.items = slices.DeleteFunc(slices.Clone(f.items), func(i syntax.Item) bool { return i.Kind == syntax.UID })
	case byUID && !s.uidOnly && !has(syntax.UID):
		f.items = append([]syntax.Item{{Kind: syntax.UID}}, f.items...)
	}
	if cmd.Changed || has(syntax.FetchModSeq) {
		s.condstore = true
		if !has(syntax.FetchModSeq) {
			f.items = append(f.items, syntax.Item{Kind: syntax.FetchModSeq})
		}
	}
	for i := range f.items {
		item := &f.items[i]
		f.marks = f.marks || item.Marks()
		switch item.Kind {
		case syntax.Envelope, syntax.Structure, syntax.BasicBody:
			f.structure = true
		case syntax.FetchModSeq:
			f.modSeq = true
		case syntax.UID:
			f.uid = true
		case syntax.Body, syntax.Binary, syntax.BinarySize, syntax.Preview:
			f.structure, f.body = true, true
		}
	}
	f.marks = f.marks && !s.box.readOnly
	return f
}

// mark sets \Seen on the messages of a batch that lack it.
func (f *fetcher) mark(ctx context.Context, batch []int) error {
	f.seen = f.seen[:0]
	if !f.marks {
		return nil
	}
	for _, i := range batch {
		if m := f.box.known.At(i); !slices.Contains(m.Flags, backend.FlagSeen) {
			f.seen = append(f.seen, m.UID)
		}
	}
	if len(f.seen) == 0 {
		return nil
	}
	now, _, err := f.user.SetFlags(ctx, f.box.id, f.seen, backend.FlagChange{Op: backend.FlagsAdd, Flags: []string{backend.FlagSeen}})
	if err != nil {
		return err
	}
	f.learn(now)
	return nil
}

// learn takes messages as a change of this session's has made them.
func (s *session) learn(now []backend.Message) {
	s.noteKeywords(now)
	s.box.known = s.box.known.Update(now)
	s.box.dirty = true
}

// message answers for one message.
func (f *fetcher) message(ctx context.Context, i int) error {
	m := f.box.known.At(i)
	var root *message.Part
	var body backend.Body
	var err error
	if f.structure {
		root, err = f.user.Structure(ctx, f.box.id, m.UID)
	}
	if err == nil && f.body {
		if body, err = f.user.Body(ctx, f.box.id, m.UID); err == nil {
			defer body.Close()
		}
	}
	if errors.Is(err, backend.ErrNoMessage) {
		f.gone = true
		f.box.dirty = true
		return nil
	}
	if err != nil {
		return err
	}
	f.openFetch(i, m)
	flags := slices.Contains(f.seen, m.UID)
	for k := range f.items {
		if k > 0 {
			f.out.Raw(" ")
		}
		item := &f.items[k]
		if item.Kind == syntax.Flags {
			flags = false
		}
		if err := f.item(item, m, root, body); err != nil {
			f.out.Drop(0)
			return err
		}
	}
	if flags { // \Seen came by this very command
		if f.qresync && !f.uid && !f.uidOnly {
			f.out.Raw(" UID ").Num(uint64(m.UID))
		}
		f.out.Raw(" FLAGS ").FlagList(m.Flags)
		if f.condstore && !f.modSeq { // RFC 7162 §3.1: no change without it
			f.out.Raw(" MODSEQ (").Num(uint64(m.ModSeq)).Raw(")")
		}
	}
	f.out.Raw(")").End()
	if err := f.out.Err(); err != nil {
		return lost(err)
	}
	return nil
}

// item writes one item's name and value.
func (f *fetcher) item(item *syntax.Item, m *backend.Message, root *message.Part, body backend.Body) error {
	switch item.Kind {
	case syntax.UID:
		f.out.Raw("UID ").Num(uint64(m.UID))
	case syntax.Flags:
		f.out.Raw("FLAGS ").FlagList(m.Flags)
	case syntax.InternalDate:
		f.out.Raw("INTERNALDATE ").DateTime(m.InternalDate)
	case syntax.SaveDate:
		f.out.Raw("SAVEDATE ").DateTime(m.SaveDate)
	case syntax.Size:
		f.out.Raw("RFC822.SIZE ").Num(uint64(m.Size))
	case syntax.FetchModSeq:
		f.out.Raw("MODSEQ (").Num(uint64(m.ModSeq)).Raw(")")
	case syntax.FetchEmailID:
		f.out.Raw("EMAILID (").Raw(m.GUID.String()).Raw(")")
	case syntax.FetchThreadID:
		f.out.Raw("THREADID NIL")
	case syntax.Envelope:
		f.out.Raw("ENVELOPE ").Envelope(root.Envelope)
	case syntax.Structure:
		f.out.Raw("BODYSTRUCTURE ").Structure(root, true)
	case syntax.BasicBody:
		f.out.Raw("BODY ").Structure(root, false)
	case syntax.Preview:
		text, err := message.Preview(body, root)
		if err != nil {
			return err
		}
		f.out.Raw("PREVIEW ").String(text)
	case syntax.Body:
		return f.section(item, root, body)
	default:
		return f.binary(item, root, body)
	}
	return nil
}
