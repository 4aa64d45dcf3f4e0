package backendtest

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/backend"
)

func testAppend(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u := account(t, s, "ann")
	date := time.Date(2020, 2, 3, 4, 5, 6, 0, time.FixedZone("", 3600))
	in := incoming(message(1), `\seen`, "Work", `\DELETED`, "work", `\Seen`)
	in.InternalDate = date
	before := mailbox(t, u, "INBOX")
	w := u.Watch(before.ID)
	defer w.Close()
	start := time.Now().Add(-2 * time.Second)
	out, err := u.Append(ctx, "inbox", []backend.Incoming{in, incoming(message(2))})
	must(t, err)
	if len(out) != 2 || out[0].UID != 1 || out[1].UID != 2 || out[0].GUID == out[1].GUID || out[0].GUID.IsZero() ||
		out[0].Mailbox != before.ID || out[0].UIDValidity != before.UIDValidity {
		t.Errorf("appended %+v", out)
	}
	select {
	case <-w.C:
	default:
		t.Error("the watcher was not told")
	}
	v := view(t, u, before.ID)
	if v.Mailbox.Messages != 2 || v.Mailbox.Unseen != 1 || v.Mailbox.Deleted != 1 || v.Mailbox.UIDNext != 3 ||
		v.Mailbox.Size != int64(len(message(1))+len(message(2))) || v.Mailbox.HighestModSeq <= before.HighestModSeq {
		t.Errorf("mailbox %+v", v.Mailbox)
	}
	if v.Mailbox != mailbox(t, u, "INBOX") {
		t.Error("the view's mailbox is another")
	}
	m := v.Messages.At(0)
	if !slices.Equal(m.Flags, []string{"Work", `\Deleted`, `\Seen`}) || !m.InternalDate.Equal(date) ||
		m.Size != in.Size || m.GUID != out[0].GUID || m.ModSeq == 0 || m.ModSeq > v.Mailbox.HighestModSeq {
		t.Errorf("message %+v", *m)
	}
	now := v.Messages.At(1)
	for _, when := range []time.Time{now.InternalDate, now.SaveDate, m.SaveDate} {
		if when.Before(start) || when.After(time.Now().Add(2*time.Second)) {
			t.Errorf("dated %v", when)
		}
	}
	testAppendRefused(t, u, v.Mailbox)
}

// testAppendRefused checks that nothing comes of a refused APPEND.
func testAppendRefused(t *testing.T, u backend.User, inbox backend.Mailbox) {
	ctx := t.Context()
	good := incoming(message(3))
	for name, c := range map[string]struct {
		mailbox string
		second  backend.Incoming
		want    error
	}{
		"no mailbox":      {"nothing", good, backend.ErrNoMailbox},
		"bad name":        {"a//b", good, backend.ErrNoMailbox},
		"unknown system":  {"INBOX", incoming("x", `\Wrong`), backend.ErrFlag},
		"recent":          {"INBOX", incoming("x", `\Recent`), backend.ErrFlag},
		"no atom":         {"INBOX", incoming("x", "a b"), backend.ErrFlag},
		"brackets":        {"INBOX", incoming("x", "a]"), backend.ErrFlag},
		"empty keyword":   {"INBOX", incoming("x", ""), backend.ErrFlag},
		"8-bit keyword":   {"INBOX", incoming("x", "ü"), backend.ErrFlag},
		"long keyword":    {"INBOX", incoming("x", strings.Repeat("k", 65)), backend.ErrFlag},
		"many keywords":   {"INBOX", incoming("x", many(65)...), backend.ErrTooMany},
		"body too short":  {"INBOX", backend.Incoming{Body: strings.NewReader("abc"), Size: 9}, io.ErrUnexpectedEOF},
		"body that fails": {"INBOX", backend.Incoming{Body: failing{}, Size: 9}, errFailing},
		"too big":         {"INBOX", backend.Incoming{Body: endless{}, Size: 1 << 40}, backend.ErrTooBig},
	} {
		out, err := u.Append(ctx, c.mailbox, []backend.Incoming{good, c.second})
		if !errors.Is(err, c.want) || out != nil {
			t.Errorf("%s: %v, %v, want %v", name, out, err, c.want)
		}
	}
	if now := mailbox(t, u, "INBOX"); now != inbox {
		t.Errorf("refused appends changed INBOX: %+v, was %+v", now, inbox)
	}
	if _, err := u.Append(ctx, "INBOX", []backend.Incoming{incoming(message(1), many(64)...)}); err != nil {
		t.Errorf("64 keywords: %v", err)
	}
}

func many(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("k%d", i))
	}
	return list
}

var errFailing = errors.New("failing body")

type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, errFailing }

type endless struct{}

func (endless) ReadAt(p []byte, _ int64) (int, error) { return len(p), nil }

func testDeliver(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u := account(t, s, "ann")
	other := account(t, s, "bob")
	_, err := u.Create(ctx, "lists/go", "")
	must(t, err)
	one := backend.Delivery{Incoming: incoming(message(1)), ID: [32]byte{1}}
	first, err := u.Deliver(ctx, one)
	must(t, err)
	if first.Duplicate || first.Mailbox != mailbox(t, u, "INBOX").ID || first.UID != 1 {
		t.Errorf("first: %+v", first)
	}
	second, err := u.Deliver(ctx, one)
	must(t, err)
	if !second.Duplicate || second.Appended != first.Appended {
		t.Errorf("second: %+v", second)
	}
	if d, err := other.Deliver(ctx, one); err != nil || d.Duplicate {
		t.Errorf("another user: %+v, %v", d, err)
	}
	for _, name := range []string{"", "nothing", "bad//name", "inbox"} {
		d, err := u.Deliver(ctx, backend.Delivery{Incoming: incoming(message(2)), Mailbox: name})
		must(t, err)
		if d.Mailbox != first.Mailbox || d.Duplicate {
			t.Errorf("to %q: %+v", name, d)
		}
	}
	d, err := u.Deliver(ctx, backend.Delivery{Incoming: incoming(message(3), `\Flagged`), Mailbox: "lists/go", ID: [32]byte{2}})
	must(t, err)
	if d.Mailbox != mailbox(t, u, "lists/go").ID {
		t.Errorf("to a mailbox: %+v", d)
	}
	if got := view(t, u, d.Mailbox).Messages.At(0).Flags; !slices.Equal(got, []string{`\Flagged`}) {
		t.Errorf("flags %q", got)
	}
	if m := mailbox(t, u, "INBOX"); m.Messages != 5 {
		t.Errorf("INBOX has %d messages, want 5", m.Messages)
	}
	// A duplicate stays one when its message is gone.
	_, err = u.Expunge(ctx, first.Mailbox, nil, false)
	must(t, err)
	if d, err := u.Deliver(ctx, one); err != nil || !d.Duplicate {
		t.Errorf("after the expunge: %+v, %v", d, err)
	}
}

func testFlags(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u := account(t, s, "ann")
	m := fill(t, u, "INBOX", 3, "old")
	w := u.Watch(m.ID)
	defer w.Close()
	for _, step := range []struct {
		name  string
		op    backend.FlagOp
		flags []string
		want  []string
		moves bool // the ModSeq
	}{
		{"add", backend.FlagsAdd, []string{`\SEEN`, "new"}, []string{`\Seen`, "new", "old"}, true},
		{"add again", backend.FlagsAdd, []string{"NEW"}, []string{`\Seen`, "new", "old"}, false},
		{"remove", backend.FlagsRemove, []string{"OLD", "absent"}, []string{`\Seen`, "new"}, true},
		{"remove again", backend.FlagsRemove, []string{"old"}, []string{`\Seen`, "new"}, false},
		{"replace", backend.FlagsReplace, []string{"z", `\Answered`}, []string{`\Answered`, "z"}, true},
		{"replace by the same", backend.FlagsReplace, []string{`\answered`, "z"}, []string{`\Answered`, "z"}, false},
		{"none", backend.FlagsReplace, nil, nil, true},
	} {
		before := mailbox(t, u, "INBOX")
		now, held, err := u.SetFlags(ctx, m.ID, []backend.UID{3, 1, 77, 1}, backend.FlagChange{Op: step.op, Flags: step.flags})
		must(t, err)
		if len(now) != 2 || now[0].UID != 1 || now[1].UID != 3 || held != nil {
			t.Fatalf("%s: now %+v, held %v", step.name, now, held)
		}
		after := mailbox(t, u, "INBOX")
		if (after.HighestModSeq > before.HighestModSeq) != step.moves {
			t.Errorf("%s: modseq from %d to %d", step.name, before.HighestModSeq, after.HighestModSeq)
		}
		for i, msg := range now {
			want := slices.Clone(step.want)
			slices.Sort(want)
			if !slices.Equal(msg.Flags, want) || msg.ModSeq > after.HighestModSeq ||
				step.moves && msg.ModSeq <= before.HighestModSeq {
				t.Errorf("%s: message %d is %+v, want %q", step.name, msg.UID, msg, want)
			}
			if got := view(t, u, m.ID).Messages.At(2 * i); got.ModSeq != msg.ModSeq || !slices.Equal(got.Flags, msg.Flags) {
				t.Errorf("%s: the view has %+v", step.name, *got)
			}
		}
		select {
		case <-w.C:
			if !step.moves {
				t.Errorf("%s: the watcher was told of nothing", step.name)
			}
		default:
			if step.moves {
				t.Errorf("%s: the watcher was not told", step.name)
			}
		}
	}
	if got := view(t, u, m.ID).Messages.At(1); !slices.Equal(got.Flags, []string{"old"}) {
		t.Errorf("the message in between has %q", got.Flags)
	}
	if _, _, err := u.SetFlags(ctx, m.ID, []backend.UID{1}, backend.FlagChange{Flags: []string{`\No`}}); !errors.Is(err, backend.ErrFlag) {
		t.Errorf("a bad flag: %v", err)
	}
	counters(t, u, m.ID)
}

// counters compares a mailbox's counters with its messages.
func counters(t *testing.T, u backend.User, id backend.GUID) {
	t.Helper()
	v := view(t, u, id)
	var n, unseen, deleted uint32
	var size int64
	for _, m := range v.Messages.All() {
		n++
		size += m.Size
		if !slices.Contains(m.Flags, `\Seen`) {
			unseen++
		}
		if slices.Contains(m.Flags, `\Deleted`) {
			deleted++
		}
	}
	if b := v.Mailbox; b.Messages != n || b.Unseen != unseen || b.Deleted != deleted || b.Size != size {
		t.Errorf("counters %+v, the messages say %d, %d unseen, %d deleted, %d bytes", b, n, unseen, deleted, size)
	}
}

func testFlagsConditional(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u := account(t, s, "ann")
	m := fill(t, u, "INBOX", 3)
	all := []backend.UID{1, 2, 3}
	now, _, err := u.SetFlags(ctx, m.ID, []backend.UID{2}, backend.FlagChange{Op: backend.FlagsAdd, Flags: []string{"x"}})
	must(t, err)
	high := now[0].ModSeq
	now, held, err := u.SetFlags(ctx, m.ID, all, backend.FlagChange{Op: backend.FlagsAdd, Flags: []string{`\Seen`}, UnchangedSince: high - 1})
	must(t, err)
	sameUIDs(t, "held", held, 2)
	if len(now) != 3 || slices.Contains(now[1].Flags, `\Seen`) || now[1].ModSeq != high || !slices.Contains(now[0].Flags, `\Seen`) {
		t.Errorf("now %+v", now)
	}
	_, held, err = u.SetFlags(ctx, m.ID, []backend.UID{2}, backend.FlagChange{Op: backend.FlagsAdd, Flags: []string{`\Seen`}, UnchangedSince: high})
	must(t, err)
	sameUIDs(t, "held with its own modseq", held)
}

func testCopy(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u := account(t, s, "ann")
	m := fill(t, u, "INBOX", 4, `\Flagged`, "k")
	sent := fill(t, u, "Sent", 2)
	out, err := u.Copy(ctx, m.ID, []backend.UID{4, 2, 99}, "sent")
	if !errors.Is(err, backend.ErrNoMailbox) {
		t.Errorf("another case is another name: %v", err)
	}
	out, err = u.Copy(ctx, m.ID, []backend.UID{4, 2, 99}, "Sent")
	must(t, err)
	sameUIDs(t, "source", out.Source, 2, 4)
	sameUIDs(t, "destination", out.Dest, 3, 4)
	if out.Mailbox != sent.ID || out.UIDValidity != sent.UIDValidity {
		t.Errorf("copied %+v", out)
	}
	from, to := view(t, u, m.ID), view(t, u, sent.ID)
	for i, uid := range []backend.UID{2, 4} {
		a, b := from.Messages.At(int(uid-1)), to.Messages.At(2+i)
		if a.GUID != b.GUID || !a.InternalDate.Equal(b.InternalDate) || !slices.Equal(a.Flags, b.Flags) || b.ModSeq <= sent.HighestModSeq {
			t.Errorf("copy %+v of %+v", *b, *a)
		}
		if got := body(t, u, sent.ID, b.UID); got != message(int(uid)) {
			t.Errorf("copy of %d reads %q", uid, got)
		}
	}
	// Copies live on without the original.
	_, err = u.Expunge(ctx, m.ID, nil, false)
	must(t, err)
	if got := body(t, u, sent.ID, 3); got != message(2) {
		t.Errorf("after the original went: %q", got)
	}
	out, err = u.Copy(ctx, m.ID, []backend.UID{1}, "Sent")
	if err != nil || len(out.Source) != 0 || len(out.Dest) != 0 {
		t.Errorf("nothing to copy: %+v, %v", out, err)
	}
	out, err = u.Copy(ctx, sent.ID, []backend.UID{1, 2}, "Sent")
	must(t, err)
	sameUIDs(t, "into itself", out.Dest, 5, 6)
	counters(t, u, sent.ID)
}

func testMove(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u := account(t, s, "ann")
	m := fill(t, u, "INBOX", 4)
	trash := mailbox(t, u, "Trash")
	here, there := u.Watch(m.ID), u.Watch(trash.ID)
	defer here.Close()
	defer there.Close()
	if _, err := u.Move(ctx, m.ID, []backend.UID{1}, "nothing"); !errors.Is(err, backend.ErrNoMailbox) {
		t.Errorf("to nowhere: %v", err)
	}
	out, err := u.Move(ctx, m.ID, []backend.UID{1, 3, 50}, "Trash")
	must(t, err)
	sameUIDs(t, "source", out.Source, 1, 3)
	sameUIDs(t, "destination", out.Dest, 1, 2)
	for _, w := range []*backend.Watch{here, there} {
		select {
		case <-w.C:
		default:
			t.Error("a watcher was not told")
		}
	}
	sameUIDs(t, "what stays", uids(t, u, m.ID), 2, 4)
	if got := body(t, u, trash.ID, 2); got != message(3) {
		t.Errorf("moved body %q", got)
	}
	gone, ok, err := u.Vanished(ctx, m.ID, m.HighestModSeq)
	if err != nil || !ok {
		t.Errorf("vanished: %v %v", ok, err)
	}
	sameUIDs(t, "vanished", gone, 1, 3)
	if now := mailbox(t, u, "INBOX"); now.UIDNext != 5 || now.HighestModSeq <= m.HighestModSeq {
		t.Errorf("source afterwards %+v", now)
	}
	out, err = u.Move(ctx, m.ID, []backend.UID{2}, "INBOX")
	must(t, err)
	sameUIDs(t, "into itself", out.Dest, 5)
	sameUIDs(t, "into itself, then", uids(t, u, m.ID), 4, 5)
	counters(t, u, m.ID)
	counters(t, u, trash.ID)
}

func testExpunge(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u := account(t, s, "ann")
	m := fill(t, u, "INBOX", 6)
	_, _, err := u.SetFlags(ctx, m.ID, []backend.UID{2, 3, 5}, backend.FlagChange{Op: backend.FlagsAdd, Flags: []string{`\Deleted`}})
	must(t, err)
	gone, err := u.Expunge(ctx, m.ID, []backend.UID{3, 1, 99}, true)
	must(t, err)
	sameUIDs(t, "some, deleted only", gone, 3)
	gone, err = u.Expunge(ctx, m.ID, nil, true)
	must(t, err)
	sameUIDs(t, "all, deleted only", gone, 2, 5)
	before := mailbox(t, u, "INBOX")
	gone, err = u.Expunge(ctx, m.ID, nil, true)
	must(t, err)
	if len(gone) != 0 || mailbox(t, u, "INBOX") != before {
		t.Errorf("nothing to expunge: %v", gone)
	}
	gone, err = u.Expunge(ctx, m.ID, []backend.UID{6, 6, 4}, false)
	must(t, err)
	sameUIDs(t, "by uid", gone, 4, 6)
	sameUIDs(t, "what stays", uids(t, u, m.ID), 1)
	if _, err := u.Body(ctx, m.ID, 2); !errors.Is(err, backend.ErrNoMessage) {
		t.Errorf("body of an expunged message: %v", err)
	}
	if _, err := u.Structure(ctx, m.ID, 2); !errors.Is(err, backend.ErrNoMessage) {
		t.Errorf("its structure: %v", err)
	}
	// A UID is not given again, even the highest one.
	fill(t, u, "INBOX", 1)
	sameUIDs(t, "after a new one", uids(t, u, m.ID), 1, 7)
	gone, err = u.Expunge(ctx, m.ID, []backend.UID{}, false)
	must(t, err)
	sameUIDs(t, "an empty list is none", gone)
	counters(t, u, m.ID)
}

func testVanished(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u := account(t, s, "ann")
	m := fill(t, u, "INBOX", 9)
	moments := []backend.ModSeq{m.HighestModSeq}
	steps := [][]backend.UID{{8, 2}, {5}, {1, 9}}
	for _, list := range steps {
		_, err := u.Expunge(ctx, m.ID, list, false)
		must(t, err)
		moments = append(moments, mailbox(t, u, "INBOX").HighestModSeq)
	}
	for i, want := range [][]backend.UID{{1, 2, 5, 8, 9}, {1, 5, 9}, {1, 9}, nil} {
		got, ok, err := u.Vanished(ctx, m.ID, moments[i])
		if err != nil || !ok {
			t.Fatalf("since %d: %v %v", moments[i], ok, err)
		}
		sameUIDs(t, "vanished", got, want...)
	}
}

func testWatch(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u := account(t, s, "ann")
	inbox, sent := mailbox(t, u, "INBOX"), mailbox(t, u, "Sent")
	a, b, other := u.Watch(inbox.ID), u.Watch(inbox.ID), u.Watch(sent.ID)
	defer a.Close()
	defer other.Close()
	// Another handle of the same account is told too.
	same, err := s.User(ctx, "ann")
	must(t, err)
	c := same.Watch(inbox.ID)
	defer c.Close()
	fill(t, same, "INBOX", 1)
	fill(t, u, "INBOX", 1)
	for i, w := range []*backend.Watch{a, b, c} {
		select {
		case <-w.C:
		default:
			t.Errorf("watcher %d was not told", i)
		}
		select {
		case <-w.C:
			t.Errorf("watcher %d was told twice of what was pending", i)
		default:
		}
	}
	select {
	case <-other.C:
		t.Error("the watcher of another mailbox was told")
	default:
	}
	b.Close()
	b.Close()
	fill(t, u, "INBOX", 1)
	select {
	case <-b.C:
		t.Error("a closed watcher was told")
	default:
	}
	none := u.Watch(backend.GUID{1})
	none.Close()
}

// testViews checks that a view stays as it was, and that the next one is new.
func testViews(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u := account(t, s, "ann")
	m := fill(t, u, "INBOX", 5)
	old := view(t, u, m.ID)
	fill(t, u, "INBOX", 2)
	_, _, err := u.SetFlags(ctx, m.ID, []backend.UID{2}, backend.FlagChange{Op: backend.FlagsAdd, Flags: []string{"x"}})
	must(t, err)
	_, err = u.Expunge(ctx, m.ID, []backend.UID{4}, false)
	must(t, err)
	if old.Messages.Len() != 5 || old.Messages.At(1).Flags != nil || old.Mailbox != m {
		t.Error("an old view changed")
	}
	now := view(t, u, m.ID)
	d := backend.Diff(old.Messages, now.Messages)
	sameUIDs(t, "removed", d.Removed, 4)
	if len(d.Changed) != 1 || d.Changed[0].UID != 2 || len(d.Added) != 2 || d.Added[0].UID != 6 {
		t.Errorf("difference %+v", d)
	}
}

// testTogether has many sessions change one account at once: every answer is
// true in the end, UIDs ascend as they become visible.
func testTogether(t *testing.T, s backend.Store) {
	ctx := t.Context()
	account(t, s, "ann")
	const sessions, each = 8, 12
	var mu sync.Mutex
	acked := map[backend.UID]string{}
	var wg sync.WaitGroup
	inbox := backend.GUID{}
	{
		u, err := s.User(ctx, "ann")
		must(t, err)
		inbox = mailbox(t, u, "INBOX").ID
	}
	for n := range sessions {
		wg.Go(func() {
			u, err := s.User(ctx, "ann")
			if err != nil {
				t.Error(err)
				return
			}
			for i := range each {
				text := message(n*1000 + i)
				d, err := u.Deliver(ctx, backend.Delivery{Incoming: incoming(text), ID: [32]byte{byte(n + 1), byte(i / 2)}})
				if err != nil {
					t.Error(err)
					return
				}
				if d.Duplicate != (i%2 == 1) {
					t.Errorf("delivery %d of session %d: duplicate %v", i, n, d.Duplicate)
				}
				if !d.Duplicate {
					mu.Lock()
					if acked[d.UID] != "" {
						t.Errorf("uid %d given twice", d.UID)
					}
					acked[d.UID] = text
					mu.Unlock()
				}
				v, err := u.View(ctx, inbox)
				if err != nil {
					t.Error(err)
					return
				}
				if p, ok := v.Messages.Find(d.UID); !ok || p != int(d.UID)-1 {
					t.Errorf("uid %d is at %d (%v): something below it is not visible yet", d.UID, p, ok)
				}
				if _, _, err := u.SetFlags(ctx, inbox, []backend.UID{d.UID}, backend.FlagChange{Op: backend.FlagsAdd, Flags: []string{"k"}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	u, err := s.User(ctx, "ann")
	must(t, err)
	if len(acked) != sessions*each/2 {
		t.Errorf("%d messages, want %d", len(acked), sessions*each/2)
	}
	for uid, text := range acked {
		if got := body(t, u, inbox, uid); got != text {
			t.Errorf("uid %d reads %q, want %q", uid, got, text)
		}
	}
	counters(t, u, inbox)
}
