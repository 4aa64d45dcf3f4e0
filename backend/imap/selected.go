package imap

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"switchyard/backend"
	"switchyard/backend/imap/syntax"
)

// selected is an open mailbox as the client knows it. Messages that others
// have expunged stay in known, and keep their numbers, until the client may be
// told.
type selected struct {
	id       backend.GUID
	readOnly bool
	known    backend.Messages
	modSeq   backend.ModSeq // the mailbox's highest when all of it was known
	uidNext  backend.UID    // the next UID then
	dirty    bool           // the mailbox may differ from known
	watch    *backend.Watch
	keywords []string      // those the client has been told of, sorted
	saved    []backend.UID // $, ascending (RFC 5182)
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// systemFlags are the flags that every mailbox has.
func systemFlags() []string {
	return []string{backend.FlagAnswered, backend.FlagFlagged, backend.FlagDeleted, backend.FlagSeen, backend.FlagDraft}
}

func (s *session) selectBox(ctx context.Context) (reply, error) { return s.openBox(ctx, false) }
func (s *session) examine(ctx context.Context) (reply, error)   { return s.openBox(ctx, true) }

// openBox serves SELECT and EXAMINE.
func (s *session) openBox(ctx context.Context, readOnly bool) (reply, error) {
	if err := s.lex.SP(); err != nil {
		return reply{}, err
	}
	name, err := s.lex.Mailbox(s.out.UTF8)
	if err != nil {
		return reply{}, err
	}
	var q syntax.QResync
	if s.lex.Is(' ') {
		if err := s.lex.List(false, func() error { return s.selectParameter(&q) }); err != nil {
			return reply{}, err
		}
	}
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	if s.uidOnly && len(q.Numbers.Ranges) > 0 {
		return uidRequired(), nil
	}
	// RFC 9051 §6.3.2: the old mailbox is closed even if the new one cannot
	// be opened.
	if s.box != nil {
		s.closeBox()
		s.untagged("OK [CLOSED] The old mailbox is closed")
	}
	mailbox, err := s.user.Mailbox(ctx, name)
	if err != nil {
		return reply{}, err
	}
	// The watch comes first: a change between it and the view is signalled.
	box := &selected{id: mailbox.ID, readOnly: readOnly, watch: s.user.Watch(mailbox.ID)}
	view, err := s.user.View(ctx, mailbox.ID)
	if err != nil {
		box.watch.Close()
		return reply{}, err
	}
	box.know(view)
	s.box = box
	s.describe(view)
	if q.UIDValidity != 0 {
		if err := s.resync(ctx, q, view); err != nil {
			s.closeBox() // RFC 9051 §6.3.2: a SELECT that fails leaves none open
			return reply{}, err
		}
	}
	if readOnly {
		return okCode("READ-ONLY", "Mailbox is open"), nil
	}
	return okCode("READ-WRITE", "Mailbox is open"), nil
}

func (s *session) selectParameter(q *syntax.QResync) error {
	word, err := s.lex.Word()
	switch {
	case err != nil:
		return err
	case word == "CONDSTORE":
		s.condstore = true
		return nil
	case word != "QRESYNC":
		return syntax.Errorf("An unknown SELECT parameter")
	case !s.qresync: // RFC 7162 §3.2.5
		return syntax.Errorf("QRESYNC must be enabled first")
	}
	if err := s.lex.SP(); err != nil {
		return err
	}
	*q, err = s.lex.QResync()
	return err
}

// describe sends the untagged data of SELECT.
func (s *session) describe(view backend.View) {
	box := s.box
	box.keywords = slices.Clone(box.known.Keywords())
	s.sendKeywords()
	if box.readOnly {
		s.untagged("OK [PERMANENTFLAGS ()] No flag can be changed")
	} else {
		s.out.Raw("* OK [PERMANENTFLAGS ").FlagList(append(append(systemFlags(), box.keywords...), `\*`)).Raw("] Flags that stay").End()
	}
	s.out.Raw("* ").Num(uint64(box.known.Len())).Raw(" EXISTS").End()
	if !s.rev2 {
		s.untagged("0 RECENT")
		if first, found := box.known.FirstUnseen(); found && !s.uidOnly {
			s.untagged("OK [UNSEEN " + strconv.Itoa(first+1) + "] The first that was not read")
		}
	}
	s.out.Raw("* OK [UIDVALIDITY ").Num(uint64(view.Mailbox.UIDValidity)).Raw("] UIDs are valid").End()
	s.out.Raw("* OK [UIDNEXT ").Num(uint64(view.Mailbox.UIDNext)).Raw("] The next UID").End()
	s.out.Raw("* OK [HIGHESTMODSEQ ").Num(uint64(max(view.Mailbox.HighestModSeq, 1))).Raw("] The highest").End()
	s.out.Raw("* OK [MAILBOXID (").Raw(view.Mailbox.ID.String()).Raw(")] The mailbox's id").End()
	if s.rev2 {
		s.out.Raw(`* LIST () "/" `).Mailbox(view.Mailbox.Name).End()
	}
}

// know takes the mailbox as the client knows it from now on.
func (b *selected) know(view backend.View) {
	b.known, b.modSeq, b.uidNext = view.Messages, view.Mailbox.HighestModSeq, view.Mailbox.UIDNext
}

// addKeywords notes keywords and reports whether one was new.
func (b *selected) addKeywords(flags []string) bool {
	added := false
	for _, f := range flags {
		if strings.HasPrefix(f, `\`) {
			continue
		}
		if i, found := slices.BinarySearch(b.keywords, f); !found {
			b.keywords = slices.Insert(b.keywords, i, f)
			added = true
		}
	}
	return added
}

func (s *session) sendKeywords() {
	s.out.Raw("* FLAGS ").FlagList(append(systemFlags(), s.box.keywords...)).End()
}

// noteKeywords tells the client of keywords before it sees them.
func (s *session) noteKeywords(messages []backend.Message) {
	added := false
	for i := range messages {
		added = s.box.addKeywords(messages[i].Flags) || added
	}
	if added {
		s.sendKeywords()
	}
}

// closeBox leaves the open mailbox.
func (s *session) closeBox() {
	if s.box != nil {
		s.box.watch.Close()
		s.box = nil
	}
}

func (s *session) unselect(context.Context) (reply, error) {
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	s.closeBox()
	return ok("The mailbox is closed")
}

// close serves CLOSE: like EXPUNGE, but silent (RFC 9051 §6.4.1).
func (s *session) close(ctx context.Context) (reply, error) {
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	if !s.box.readOnly {
		if _, err := s.user.Expunge(ctx, s.box.id, nil, true); err != nil && !errors.Is(err, backend.ErrNoMailbox) {
			return reply{}, err
		}
	}
	s.closeBox()
	return ok("The mailbox is closed")
}

// sync tells the client what has changed in its mailbox. Without expunges,
// messages that are gone keep their numbers until the next sync with them.
func (s *session) sync(ctx context.Context, expunges bool) error {
	box := s.box
	if box == nil {
		return nil
	}
	select {
	case <-box.watch.C:
		box.dirty = true
	default:
	}
	if !box.dirty {
		return nil
	}
	view, err := s.user.View(ctx, box.id)
	if errors.Is(err, backend.ErrNoMailbox) {
		// RFC 2180 §3.3: there is nothing left to number.
		return &ending{reason: "mailbox deleted", bye: "The mailbox was deleted"}
	}
	if err != nil {
		return nil // box stays dirty: the next command tries again
	}
	d := backend.Diff(box.known, view.Messages)
	box.dirty = false
	if expunges {
		s.sendExpunges(d.Removed)
		box.know(view)
	} else {
		box.known = box.known.Update(d.Changed).Append(d.Added...)
		box.dirty = len(d.Removed) > 0
	}
	if len(d.Added) > 0 {
		s.out.Raw("* ").Num(uint64(box.known.Len())).Raw(" EXISTS").End()
	}
	s.noteKeywords(d.Added)
	s.noteKeywords(d.Changed)
	for i := range d.Changed {
		s.sendChange(&d.Changed[i], true)
	}
	return nil
}

// sendExpunges announces messages that are gone: by UID, or by number, the
// last first, so that the numbers of the others need no arithmetic.
func (s *session) sendExpunges(gone []backend.UID) {
	if len(gone) > 0 && s.vanishes() {
		s.out.Raw("* VANISHED ").Bytes(syntax.AppendSet(nil, slices.Values(gone))).End()
	}
	for _, uid := range slices.Backward(gone) {
		if i, found := s.box.known.Find(uid); found && !s.vanishes() {
			s.out.Raw("* ").Num(uint64(i + 1)).Raw(" EXPUNGE").End()
		}
		if i, found := slices.BinarySearch(s.box.saved, uid); found {
			s.box.saved = slices.Delete(s.box.saved, i, i+1)
		}
	}
}

// openFetch begins the answer about a message, up to the bracket: FETCH by
// number, or UIDFETCH once message numbers are not in use (RFC 9586 §3.3).
func (s *session) openFetch(i int, m *backend.Message) {
	if s.uidOnly {
		s.out.Raw("* ").Num(uint64(m.UID)).Raw(" UIDFETCH (")
	} else {
		s.out.Raw("* ").Num(uint64(i + 1)).Raw(" FETCH (")
	}
}

// sendChange announces a message's flags, or only that it has changed.
func (s *session) sendChange(m *backend.Message, flags bool) {
	i, found := s.box.known.Find(m.UID)
	switch {
	case !found:
	case flags:
		s.sendFlags(i, m)
	case s.condstore:
		s.openFetch(i, m)
		if !s.uidOnly {
			s.out.Raw("UID ").Num(uint64(m.UID)).Raw(" ")
		}
		s.out.Raw("MODSEQ (").Num(uint64(m.ModSeq)).Raw("))").End()
	}
}

// sendFlags sends a message's flags.
func (s *session) sendFlags(i int, m *backend.Message) {
	s.openFetch(i, m)
	if !s.uidOnly {
		s.out.Raw("UID ").Num(uint64(m.UID)).Raw(" ")
	}
	s.out.Raw("FLAGS ").FlagList(m.Flags)
	if s.condstore {
		s.out.Raw(" MODSEQ (").Num(uint64(m.ModSeq)).Raw(")")
	}
	s.out.Raw(")").End()
}

// resolve turns a client's set into positions in known, ascending. UIDs that
// are not there are passed over (RFC 9051 §6.4.9); a message number that is
// not there is a mistake (§6.4.5).
func (s *session) resolve(set syntax.Set, byUID bool) ([]int, error) {
	box := s.box
	n := box.known.Len()
	if set.Saved {
		var out []int
		for _, uid := range box.saved {
			if i, found := box.known.Find(uid); found {
				out = append(out, i)
			}
		}
		return out, nil
	}
	var out []int
	if !byUID {
		for _, r := range set.Resolve(uint32(n)) {
			if r.First == 0 || int64(r.Last) > int64(n) {
				return nil, syntax.Errorf("No such message number")
			}
			for i := r.First; i <= r.Last; i++ {
				out = append(out, int(i)-1)
			}
		}
		return out, nil
	}
	for _, r := range set.Resolve(box.highestUID()) {
		i, _ := box.known.Find(backend.UID(r.First))
		for ; i < n && box.known.At(i).UID <= backend.UID(r.Last); i++ {
			out = append(out, i)
		}
	}
	return out, nil
}

func (b *selected) highestUID() uint32 {
	if n := b.known.Len(); n > 0 {
		return uint32(b.known.At(n - 1).UID)
	}
	return 0
}

// uids returns the UIDs at positions.
func (b *selected) uids(positions []int) []backend.UID {
	out := make([]backend.UID, len(positions))
	for k, i := range positions {
		out[k] = b.known.At(i).UID
	}
	return out
}

// setArgument reads a space and a set, and resolves it.
func (s *session) setArgument(byUID bool) ([]int, error) {
	set, err := s.plainSetArgument()
	if err != nil {
		return nil, err
	}
	return s.resolve(set, byUID)
}

func (s *session) plainSetArgument() (syntax.Set, error) {
	if err := s.lex.SP(); err != nil {
		return syntax.Set{}, err
	}
	return s.lex.Set()
}
