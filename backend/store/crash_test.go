package store

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"switchyard/backend"
)

// dump tells all that a client, or the queue, can see.
func dump(t testing.TB, s *Store) string {
	t.Helper()
	ctx := context.Background()
	var out strings.Builder
	fail := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	var accounts []string
	fail(s.Users(ctx, func(a string) bool { accounts = append(accounts, a); return true }))
	sort.Strings(accounts)
	for _, a := range accounts {
		u, err := s.User(ctx, a)
		fail(err)
		gen, err := s.Generation(ctx, a)
		fail(err)
		subs, err := u.Subscriptions(ctx)
		fail(err)
		fmt.Fprintf(&out, "%s %d %q\n", a, gen, subs)
		boxes, err := u.Mailboxes(ctx)
		fail(err)
		for _, b := range boxes {
			fmt.Fprintf(&out, " %+v\n", b)
			v, err := u.View(ctx, b.ID)
			fail(err)
			for _, m := range v.Messages.All() {
				text := bodyOf(t, u, b.ID, m.UID)
				fmt.Fprintf(&out, "  %d %d %s %d %s %q %.60q\n", m.UID, m.ModSeq, m.GUID, m.Size, m.InternalDate, m.Flags, text)
			}
			gone, ok, err := u.Vanished(ctx, b.ID, 0)
			fail(err)
			fmt.Fprintf(&out, "  gone %v %v\n", gone, ok)
		}
	}
	fail(s.QueueScan(ctx, func(id uint64, entry []byte) bool {
		b, err := s.QueueBody(ctx, id)
		fail(err)
		text, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
		fail(err)
		b.Close()
		fmt.Fprintf(&out, "queue %d %q %q\n", id, entry, text)
		return true
	}))
	return out.String()
}

// step is one change of a scenario.
type step struct {
	name string
	do   func(t testing.TB, s *Store) error
}

// user returns an account's mail.
func userOf(t testing.TB, s *Store, account string) backend.User {
	t.Helper()
	u, err := s.User(context.Background(), account)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

const bob = "bob@example.test"

// onBox makes a step out of something done to one of bob's mailboxes.
func onBox(name, mailbox string, do func(u backend.User, m backend.Mailbox) error) step {
	return step{name, func(t testing.TB, s *Store) error {
		u := userOf(t, s, bob)
		m, err := u.Mailbox(context.Background(), mailbox)
		if err != nil {
			return err
		}
		return do(u, m)
	}}
}

// delivery is a step that delivers to bob.
func delivery(n byte) step {
	return onBox(fmt.Sprintf("deliver %d", n), "INBOX", func(u backend.User, _ backend.Mailbox) error {
		_, err := u.Deliver(context.Background(), backend.Delivery{Incoming: in(text(n)), ID: [32]byte{n}})
		return err
	})
}

func text(n byte) string {
	return fmt.Sprintf("Subject: %d\r\nMessage-ID: <%d@x>\r\n\r\n%s\r\n", n, n, strings.Repeat(fmt.Sprint("line ", n, "\r\n"), 40))
}

func scenario() []step {
	ctx := context.Background()
	return []step{
		{"create user", func(t testing.TB, s *Store) error { _, err := s.CreateUser(ctx, bob, 3); return err }},
		delivery(1),
		delivery(2),
		onBox("append three", "Sent", func(u backend.User, m backend.Mailbox) error {
			_, err := u.Append(ctx, m.Name, []backend.Incoming{in(text(3), `\Seen`), in(text(4)), in(text(5), "k")})
			return err
		}),
		onBox("big body", "Drafts", func(u backend.User, m backend.Mailbox) error {
			_, err := u.Append(ctx, m.Name, []backend.Incoming{in(strings.Repeat(text(9), 2000))})
			return err
		}),
		onBox("flags", "Sent", func(u backend.User, m backend.Mailbox) error {
			_, _, err := u.SetFlags(ctx, m.ID, []backend.UID{1, 2, 3}, backend.FlagChange{Op: backend.FlagsAdd, Flags: []string{`\Deleted`}})
			return err
		}),
		{"flush", func(t testing.TB, s *Store) error { return s.dbs[0].Flush() }},
		onBox("create", "INBOX", func(u backend.User, _ backend.Mailbox) error { _, err := u.Create(ctx, "a/b", ""); return err }),
		onBox("copy", "Sent", func(u backend.User, m backend.Mailbox) error {
			_, err := u.Copy(ctx, m.ID, []backend.UID{1, 3}, "a/b")
			return err
		}),
		onBox("move", "INBOX", func(u backend.User, m backend.Mailbox) error {
			_, err := u.Move(ctx, m.ID, []backend.UID{1}, "a")
			return err
		}),
		onBox("rename", "a", func(u backend.User, _ backend.Mailbox) error { return u.Rename(ctx, "a", "z") }),
		onBox("expunge", "Sent", func(u backend.User, m backend.Mailbox) error { _, err := u.Expunge(ctx, m.ID, nil, true); return err }),
		{"conform", conformBob},
		onBox("subscribe", "INBOX", func(u backend.User, _ backend.Mailbox) error { return u.Subscribe(ctx, "z/b", true) }),
		{"queue add", func(t testing.TB, s *Store) error {
			_, err := s.QueueAdd(ctx, []byte("to carol"), strings.NewReader(text(6)), int64(len(text(6))))
			return err
		}},
		{"queue update", func(t testing.TB, s *Store) error { return s.QueueUpdate(ctx, 1, []byte("to carol, tried once")) }},
		delivery(7),
		onBox("delete", "z/b", func(u backend.User, m backend.Mailbox) error { return u.Delete(ctx, m.Name) }),
		{"queue delete", func(t testing.TB, s *Store) error { return s.QueueDelete(ctx, 1) }},
		onBox("rename INBOX", "INBOX", func(u backend.User, _ backend.Mailbox) error { return u.Rename(ctx, "INBOX", "old") }),
		delivery(8),
	}
}

// moment is what a power failure left, and how many steps were answered.
type moment struct {
	done int
	left *vfs.MemFS
}

var crashOptions = Options{SegmentLimit: 3000, LogKeep: 64, CacheMessages: 1000}

// TestCrashAtEverySync runs a scenario and pulls the plug before and after
// every sync, with no unsynced block left and with half of them. Reopened, the
// store must show exactly the state after the steps that were answered, or with
// the one that was under way; and a delivery sent again is never there twice.
func TestCrashAtEverySync(t *testing.T) {
	t.Parallel()
	fs := newCrashFS(vfs.NewCrashableMem())
	var mu sync.Mutex
	var moments []moment
	done := 0
	fs.onCrash(func(_ int64, left *vfs.MemFS) {
		mu.Lock()
		defer mu.Unlock()
		moments = append(moments, moment{done, left})
	})
	steps := scenario()
	s := openStore(t, fs, crashOptions)
	states := []string{dump(t, s)}
	for _, st := range steps {
		if err := st.do(t, s); err != nil {
			t.Fatalf("%s: %v", st.name, err)
		}
		state := dump(t, s)
		mu.Lock()
		states = append(states, state)
		done++
		mu.Unlock()
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	closeStore(t, s)
	fs.onCrash(nil)

	half := 0
	every := 1
	if testing.Short() {
		every = 7
	}
	for i, m := range moments {
		if i%every == 0 && !checkMoment(t, m, steps, states, &half) {
			t.Fatalf("at moment %d of %d", i, len(moments))
		}
	}
	t.Logf("%d moments, %d of them with a step under way that survived", len(moments), half)
	if len(moments) < 4*len(steps) || half == 0 && every == 1 {
		t.Errorf("only %d moments for %d steps, %d with a step under way", len(moments), len(steps), half)
	}
}

func checkMoment(t *testing.T, m moment, steps []step, states []string, half *int) bool {
	t.Helper()
	name := "the end"
	if m.done < len(steps) {
		name = steps[m.done].name
	}
	s := openStore(t, m.left, crashOptions)
	defer closeStore(t, s)
	got := dump(t, s)
	at := slices.Index(states[:min(m.done+2, len(states))], got)
	if at < m.done && (at < 0 || states[at] != states[m.done]) {
		t.Errorf("crash in %q: the store shows\n%s\nwant\n%s", name, got, states[m.done])
		return false
	}
	if at > m.done {
		*half++
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("crash in %q: %v", name, err)
		return false
	}
	for n := range byte(9) {
		st := delivery(n)
		wasDone := slices.ContainsFunc(steps[:max(at, m.done)], func(other step) bool { return other.name == st.name })
		if !wasDone {
			continue
		}
		d := deliver(t, userOf(t, s, bob), n, text(n))
		if !d.Duplicate {
			t.Errorf("crash in %q: delivery %d, sent again, is not a duplicate", name, n)
			return false
		}
	}
	return !t.Failed()
}

// TestCrashTogether has several sessions deliver at once, pulls the plug at
// every tenth sync, and sends everything again after each.
func TestCrashTogether(t *testing.T) {
	t.Parallel()
	fs := newCrashFS(vfs.NewCrashableMem())
	s := openStore(t, fs, crashOptions)
	createUser(t, s, bob)
	createUser(t, s, "eve")
	var mu sync.Mutex
	acked := map[string]backend.Delivered{}
	type plug struct {
		acked map[string]backend.Delivered
		left  *vfs.MemFS
	}
	var plugs []plug
	fs.onCrash(func(point int64, left *vfs.MemFS) {
		if point%10 != 0 {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		p := plug{map[string]backend.Delivered{}, left}
		for k, v := range acked {
			p.acked[k] = v
		}
		plugs = append(plugs, p)
	})
	const sessions, each = 8, 12
	account := func(n int) string { return []string{bob, "eve"}[n%2] }
	var wg sync.WaitGroup
	for n := range sessions {
		wg.Go(func() {
			for i := range each {
				d := deliver(t, userOf(t, s, account(n)), byte(n*each+i+1), text(byte(n*each+i+1)))
				mu.Lock()
				acked[fmt.Sprint(account(n), " ", n*each+i+1)] = d
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	closeStore(t, s)
	fs.onCrash(nil)
	for i, p := range plugs {
		if testing.Short() && i%8 != 0 {
			continue
		}
		s := openStore(t, p.left, crashOptions)
		if err := s.Check(t.Context()); err != nil {
			t.Error(err)
		}
		for n := range sessions {
			for i := range each {
				key := fmt.Sprint(account(n), " ", n*each+i+1)
				d := deliver(t, userOf(t, s, account(n)), byte(n*each+i+1), text(byte(n*each+i+1)))
				if was, ok := p.acked[key]; ok && (!d.Duplicate || d.Appended != was.Appended) {
					t.Errorf("%s was answered with %+v, and then with %+v", key, was, d)
				}
			}
		}
		for _, a := range []string{bob, "eve"} {
			u := userOf(t, s, a)
			inbox, err := u.Mailbox(t.Context(), "INBOX")
			if err != nil || inbox.Messages != sessions*each/2 {
				t.Errorf("%s has %d messages, want %d: %v", a, inbox.Messages, sessions*each/2, err)
			}
		}
		closeStore(t, s)
	}
	t.Logf("%d crashes", len(plugs))
	if len(plugs) < 5 {
		t.Error("too few")
	}
}
