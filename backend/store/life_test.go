package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/store/rows"
	"switchyard/backend/store/segment"
)

func TestOpenRefuses(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs, Options{Instances: 2})
	if _, err := Open("store", Options{FS: fs, Instances: 2}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("open twice: %v", err)
	}
	closeStore(t, s)
	if _, err := Open("store", Options{FS: fs}); err == nil || !strings.Contains(err.Error(), "instances 2") {
		t.Errorf("with another number of instances: %v", err)
	}
	s = openStore(t, fs, Options{Instances: 2})
	closeStore(t, s)

	if err := fs.MkdirAll("other/things", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open("other", Options{FS: fs}); err == nil || !strings.Contains(err.Error(), "not a store") {
		t.Errorf("a directory of other things: %v", err)
	}
}

// TestDeadSegments: segments whose bodies are all gone are deleted, those with
// one left stay, also across a restart and with a body open.
func TestDeadSegments(t *testing.T) {
	fs := vfs.NewMem()
	opts := Options{Writers: 1, SegmentLimit: 1}
	s := openStore(t, fs, opts)
	u := createUser(t, s, bob)
	ctx := t.Context()
	for n := range byte(6) {
		deliver(t, u, n+1, text(n))
	}
	inbox, _ := u.Mailbox(ctx, "INBOX")
	if _, err := u.Copy(ctx, inbox.ID, []backend.UID{2}, "Sent"); err != nil {
		t.Fatal(err)
	}
	body, err := u.Body(ctx, inbox.ID, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Expunge(ctx, inbox.ID, []backend.UID{1, 2, 3, 6}, false); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	segments := func() []string {
		names, err := fs.List("store/segments")
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(names)
		return names
	}
	if got, err := io.ReadAll(io.NewSectionReader(body, 0, body.Size())); err != nil || string(got) != text(0) {
		t.Errorf("the body that was open: %v", err)
	}
	body.Close()
	s = openStore(t, fs, opts)
	if err := s.removeDead(); err != nil {
		t.Fatal(err)
	}
	want := []string{"00000002.seg", "00000004.seg", "00000005.seg", "00000006.seg"} // the last is written to
	if got := segments(); !slices.Equal(got, want) {
		t.Errorf("segments %q, want %q", got, want)
	}
	u = userOf(t, s, bob)
	sent, _ := u.Mailbox(ctx, "Sent")
	if got := bodyOf(t, u, sent.ID, 1); got != text(1) {
		t.Errorf("the copy reads %q", got)
	}
	if err := u.Delete(ctx, "Sent"); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the segment of the copy is deleted", func() bool { return !slices.Contains(segments(), "00000002.seg") })
	if err := s.Check(ctx); err != nil {
		t.Error(err)
	}
	closeStore(t, s)
}

func waitUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestDeliveriesForgotten: after seven days a delivery id is new again, and
// its rows go.
func TestDeliveriesForgotten(t *testing.T) {
	fs, clock := vfs.NewMem(), &testClock{}
	s := openStore(t, fs, Options{Clock: clock.now})
	defer closeStore(t, s)
	u := createUser(t, s, bob)
	deliver(t, u, 1, text(1))
	clock.add(keepDeliveries - time.Hour)
	if d := deliver(t, u, 1, text(1)); !d.Duplicate {
		t.Error("forgotten too early")
	}
	if err := s.forgetDeliveries(); err != nil {
		t.Fatal(err)
	}
	if d := deliver(t, u, 1, text(1)); !d.Duplicate {
		t.Error("swept too early")
	}
	clock.add(2 * time.Hour)
	if d := deliver(t, u, 1, text(1)); d.Duplicate {
		t.Error("remembered for more than seven days")
	}
	rows := func() (n int) {
		id := s.users.all[bob].Value().row.ID
		for _, prefix := range [][]byte{{rows.SpaceExpiry}, rows.KeyUser(id, rows.RowDelivery)} {
			if err := rows.Scan(s.dbs[0], prefix, func(_, _ []byte) error { n++; return nil }); err != nil {
				t.Fatal(err)
			}
		}
		return n
	}
	clock.add(keepDeliveries + time.Hour)
	if err := s.forgetDeliveries(); err != nil || rows() != 0 {
		t.Errorf("%d rows are left, %v", rows(), err)
	}
}

// TestTombstonesForgotten: old expunges are forgotten, and Vanished says so.
func TestTombstonesForgotten(t *testing.T) {
	clock := &testClock{}
	s := openStore(t, vfs.NewMem(), Options{Clock: clock.now})
	defer closeStore(t, s)
	ctx := t.Context()
	u := createUser(t, s, bob)
	for n := range byte(4) {
		deliver(t, u, n+1, text(n))
	}
	inbox, _ := u.Mailbox(ctx, "INBOX")
	expunge := func(uid backend.UID) backend.ModSeq {
		if _, err := u.Expunge(ctx, inbox.ID, []backend.UID{uid}, false); err != nil {
			t.Fatal(err)
		}
		m, _ := u.Mailbox(ctx, "INBOX")
		return m.HighestModSeq
	}
	first := expunge(1)
	clock.add(keepTombstones / 2)
	expunge(2)
	clock.add(keepTombstones/2 + time.Hour)
	expunge(3)
	if _, ok, err := u.Vanished(ctx, inbox.ID, first-1); ok || err != nil {
		t.Errorf("since before what is forgotten: %v, %v", ok, err)
	}
	uids, ok, err := u.Vanished(ctx, inbox.ID, first)
	if !ok || err != nil || !slices.Equal(uids, []backend.UID{2, 3}) {
		t.Errorf("since the first expunge: %v, %v, %v", uids, ok, err)
	}
	if err := s.Check(ctx); err != nil {
		t.Error(err)
	}
}

// TestViewCache: views beyond the bound go, those watched stay, and all come
// back equal.
func TestViewCache(t *testing.T) {
	s := openStore(t, vfs.NewMem(), Options{CacheMessages: 25})
	defer closeStore(t, s)
	ctx := t.Context()
	var views []backend.View
	var users []backend.User
	for i := range 6 {
		u := createUser(t, s, fmt.Sprint("user", i))
		for n := range byte(10) {
			deliver(t, u, n+1, text(n))
		}
		inbox, _ := u.Mailbox(ctx, "INBOX")
		if i == 0 {
			w := u.Watch(inbox.ID)
			defer w.Close()
		}
		v, err := u.View(ctx, inbox.ID)
		if err != nil {
			t.Fatal(err)
		}
		views, users = append(views, v), append(users, u)
	}
	loaded := func(i int) bool {
		u := users[i].(*mail).u
		u.mu.RLock()
		defer u.mu.RUnlock()
		return u.boxes[views[i].Mailbox.ID].loaded
	}
	if !loaded(0) || loaded(1) || !loaded(5) || s.views.n > 25 {
		t.Errorf("in memory: %v %v %v, %d messages", loaded(0), loaded(1), loaded(5), s.views.n)
	}
	for i, u := range users {
		v, err := u.View(ctx, views[i].Mailbox.ID)
		if err != nil || v.Mailbox != views[i].Mailbox {
			t.Fatalf("%+v, %v", v.Mailbox, err)
		}
		if d := backend.Diff(views[i].Messages, v.Messages); d.Removed != nil || d.Changed != nil || d.Added != nil {
			t.Errorf("user %d: came back with the difference %+v", i, d)
		}
	}
}

// TestUsersAreOne: two calls for an account share one user even when it is
// long out of the cache, and those that nobody uses go.
func TestUsersAreOne(t *testing.T) {
	s := openStore(t, vfs.NewMem(), Options{CacheUsers: 2})
	defer closeStore(t, s)
	kept := createUser(t, s, "kept").(*mail)
	for i := range 50 {
		createUser(t, s, fmt.Sprint("user", i))
	}
	if again := userOf(t, s, "kept").(*mail); again.u != kept.u {
		t.Error("two users for one account")
	}
	waitUntil(t, "unused accounts are forgotten", func() bool {
		runtime.GC()
		s.users.mu.Lock()
		defer s.users.mu.Unlock()
		return len(s.users.all) <= 4
	})
	runtime.KeepAlive(kept)
}

func TestQuota(t *testing.T) {
	limit := int64(len(text(1))) * 3
	s := openStore(t, vfs.NewMem(), Options{})
	defer closeStore(t, s)
	ctx := t.Context()
	u := createUser(t, s, bob)
	u.Limit(backend.Quota{Bytes: limit})
	for n := range byte(3) {
		deliver(t, u, n+1, text(1))
	}
	if _, err := u.Deliver(ctx, backend.Delivery{Incoming: in("x")}); !errors.Is(err, backend.ErrOverQuota) {
		t.Errorf("deliver: %v", err)
	}
	if _, err := u.Append(ctx, "Sent", []backend.Incoming{in("x")}); !errors.Is(err, backend.ErrOverQuota) {
		t.Errorf("append: %v", err)
	}
	inbox, _ := u.Mailbox(ctx, "INBOX")
	if _, err := u.Copy(ctx, inbox.ID, []backend.UID{1}, "Sent"); !errors.Is(err, backend.ErrOverQuota) {
		t.Errorf("copy: %v", err)
	}
	if _, err := u.Move(ctx, inbox.ID, []backend.UID{1}, "Trash"); err != nil {
		t.Errorf("move: %v", err)
	}
	if _, err := u.Expunge(ctx, inbox.ID, []backend.UID{2}, false); err != nil {
		t.Error(err)
	}
	deliver(t, u, 9, text(1))
	used, now, err := u.Quota(ctx)
	if want := (backend.Quota{Bytes: limit, Messages: 3}); err != nil || used != want || now.Bytes != limit {
		t.Errorf("used %+v of %+v, %v", used, now, err)
	}
	u.Limit(backend.Quota{Messages: 4})
	deliver(t, u, 10, text(1))
	if _, err := u.Append(ctx, "Sent", []backend.Incoming{in("x")}); !errors.Is(err, backend.ErrOverQuota) {
		t.Errorf("a message too many: %v", err)
	}
}

// recorder is a Replicator that keeps what it gets.
type recorder struct {
	mu      sync.Mutex
	records []*effect.Record
	bodies  map[backend.GUID]string
	refuse  error // of bodies
	lose    error // of records
}

func (r *recorder) ShipBody(_ uint8, info segment.Info, body io.ReaderAt, size int64) error {
	text, err := io.ReadAll(io.NewSectionReader(body, 0, size))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		return r.refuse
	}
	r.bodies[info.GUID] = string(text)
	return err
}

func (r *recorder) ShipRecord(_ *effect.Record, encoded []byte) Ack {
	rec, err := effect.DecodeRecord(encoded)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.records = append(r.records, rec)
		err = r.lose
	}
	return ack{err}
}

type ack struct{ err error }

func (a ack) Wait() error { return a.err }

// TestReplicator plays what a Replicator got, bodies and records, into an
// empty store: it shows the same.
func TestReplicator(t *testing.T) {
	r := &recorder{bodies: map[backend.GUID]string{}}
	s := openStore(t, vfs.NewMem(), Options{Replicator: r})
	for _, st := range scenario() {
		if err := st.do(t, s); err != nil {
			t.Fatalf("%s: %v", st.name, err)
		}
	}
	want := dump(t, s)
	closeStore(t, s)

	fs := vfs.NewMem()
	copied := openStore(t, fs, Options{})
	ids := map[string]backend.GUID{}
	for _, rec := range r.records {
		for _, e := range rec.Effects {
			if c, ok := e.(effect.UserCreated); ok {
				ids[rec.User] = c.ID
			}
		}
		shipIn(t, copied, rec, ids[rec.User], r.bodies)
	}
	closeStore(t, copied)
	copied = openStore(t, fs, Options{}) // replays
	if got := dump(t, copied); got != want {
		t.Errorf("the copy shows\n%s\nwant\n%s", got, want)
	}
	if err := copied.Check(t.Context()); err != nil {
		t.Error(err)
	}
	closeStore(t, copied)
}

// shipIn puts a record and its bodies into a store's log.
func shipIn(t *testing.T, s *Store, rec *effect.Record, user backend.GUID, bodies map[backend.GUID]string) {
	t.Helper()
	db := s.dbOf(rec.Shard)
	batch := db.NewBatch()
	for _, e := range rec.Effects {
		var guid backend.GUID
		switch e := e.(type) {
		case effect.MessageAdded:
			guid = e.Message.GUID
		case effect.QueueSet:
			guid = e.Body
		}
		text, ok := bodies[guid]
		if !ok {
			continue
		}
		delete(bodies, guid)
		p, err := s.segments.Append(rec.Shard, segment.Info{GUID: guid}, strings.NewReader(text), int64(len(text)))
		if err != nil {
			t.Fatal(err)
		}
		_ = batch.Set(rows.KeyBody(user, guid), rows.Body{Place: p}.Append(nil), nil)
	}
	_ = batch.Set(rows.KeyLog(rec.Shard, rec.Seq), effect.AppendRecord(nil, rec), nil)
	if err := db.Apply(batch, pebble.Sync); err != nil {
		t.Fatal(err)
	}
}

// TestReplicatorRefuses: a body that the peer did not take changes nothing; a
// record that is not acknowledged is not shown, and stops its shard alone.
func TestReplicatorRefuses(t *testing.T) {
	r := &recorder{bodies: map[backend.GUID]string{}}
	fs := vfs.NewMem()
	s := openStore(t, fs, Options{Replicator: r})
	ctx := context.Background()
	u := createUser(t, s, bob)
	eve := createUser(t, s, "eve")
	if shardOf(bob) == shardOf("eve") {
		t.Fatal("choose other names")
	}
	before := dump(t, s)
	r.refuse = errors.New("no room over there")
	if _, err := u.Deliver(ctx, backend.Delivery{Incoming: in(text(1))}); !errors.Is(err, backend.ErrBusy) {
		t.Errorf("a body refused: %v", err)
	}
	r.refuse, r.lose = nil, errors.New("line is dead")
	if _, err := u.Deliver(ctx, backend.Delivery{Incoming: in(text(2)), ID: [32]byte{2}}); !errors.Is(err, backend.ErrOutcomeUnknown) {
		t.Errorf("a record lost: %v", err)
	}
	r.lose = nil
	if _, err := u.Deliver(ctx, backend.Delivery{Incoming: in(text(3))}); !errors.Is(err, backend.ErrBusy) {
		t.Errorf("behind a lost record: %v", err)
	}
	if now := dump(t, s); now != before {
		t.Error("what was not acknowledged is seen")
	}
	deliver(t, eve, 1, text(4))
	closeStore(t, s)
	s = openStore(t, fs, Options{})
	defer closeStore(t, s)
	if d := deliver(t, userOf(t, s, bob), 2, text(2)); !d.Duplicate {
		t.Error("the log has the record, the state not")
	}
	if err := s.Check(ctx); err != nil {
		t.Error(err)
	}
}

// TestDriftShows: a state that is not what the log says is found at start, and
// its account alone pays for it.
func TestDriftShows(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := openStore(t, fs, Options{})
	u := createUser(t, s, bob)
	deliver(t, u, 1, text(1))
	id := u.(*mail).u.row.ID
	// The next record is durable in the log only; its state is lost.
	inner := u.(*mail).u
	left := make(chan *vfs.MemFS, 1)
	r := &hook{func() { left <- fs.CrashClone(vfs.CrashCloneCfg{}) }}
	s.opts.Replicator = r
	if _, _, err := u.SetFlags(t.Context(), inner.names["INBOX"].ID, []backend.UID{1}, backend.FlagChange{Flags: []string{"k"}}); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	clone := <-left
	s = openStore(t, clone, Options{})
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	closeStore(t, s)

	// Now the same with a message of another size in the state.
	db, err := pebble.Open("store/meta-00", &pebble.Options{FS: clone, Merger: rows.LiveMerger(), FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	box := inner.names["INBOX"].ID
	var was []byte
	if _, err := rows.Get(db, rows.KeyMessage(id, box, 1), func(b []byte) error { was = bytes.Clone(b); return nil }); err != nil {
		t.Fatal(err)
	}
	m := backend.Message{UID: 1, ModSeq: 2, Size: 5, InternalDate: time.Unix(1, 0), SaveDate: time.Unix(1, 0)}
	_ = db.Set(rows.KeyMessage(id, box, 1), effect.AppendMessage(nil, &m), pebble.Sync)
	row := rows.Applied{Epoch: 1, Seq: 2}
	_ = db.Set(rows.KeyApplied(shardOf(bob)), row.Append(nil), pebble.Sync)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	checkShutOff(t, clone, func() {
		db, err := pebble.Open("store/meta-00", &pebble.Options{FS: clone, Merger: rows.LiveMerger(), FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(db.Set(rows.KeyMessage(id, box, 1), was, pebble.Sync), db.Close()); err != nil {
			t.Fatal(err)
		}
	})
}

// checkShutOff opens a store with a message of bob's that is not as the log
// says: bob is shut off, start after start, and others are not, until the
// message is as it was.
func checkShutOff(t *testing.T, fs vfs.FS, repair func()) {
	t.Helper()
	ctx := t.Context()
	name := ""
	for n := 0; name == "" || shardOf(name) != shardOf(bob); n++ {
		name = fmt.Sprint("neighbour", n)
	}
	for round := range 3 {
		s := openStore(t, fs, Options{LogKeep: 1})
		list := s.Quarantined()
		if len(list) != 1 || list[0].Account != bob || !strings.Contains(list[0].Reason, errDrift.Error()) {
			t.Fatalf("round %d: shut off are %+v", round, list)
		}
		if _, err := s.User(ctx, bob); !errors.Is(err, backend.ErrBusy) {
			t.Errorf("round %d: the account that has drifted: %v", round, err)
		}
		if _, err := s.CreateUser(ctx, bob, 9); !errors.Is(err, backend.ErrBusy) {
			t.Errorf("round %d: creating it: %v", round, err)
		}
		if err := s.Check(ctx); err == nil || !strings.Contains(err.Error(), "shut off") {
			t.Errorf("round %d: Check: %v", round, err)
		}
		u := createUser(t, s, name)
		for n := range 70 { // enough for the log to be trimmed
			deliver(t, u, byte(round*70+n), text(byte(n)))
		}
		closeStore(t, s)
	}
	repair()
	s := openStore(t, fs, Options{})
	defer closeStore(t, s)
	if list := s.Quarantined(); len(list) > 0 {
		t.Errorf("repaired, and shut off: %+v", list)
	}
	if err := s.Check(ctx); err != nil {
		t.Error(err)
	}
	u := userOf(t, s, bob)
	inbox, _ := u.Mailbox(ctx, "INBOX")
	v, err := u.View(ctx, inbox.ID)
	if err != nil || v.Messages.Len() != 1 || !slices.Equal(v.Messages.At(0).Flags, []string{"k"}) {
		t.Errorf("repaired: %+v, %v", v, err)
	}
	deliver(t, u, 200, text(1))
}

type hook struct{ synced func() }

func (h *hook) ShipBody(uint8, segment.Info, io.ReaderAt, int64) error { return nil }
func (h *hook) ShipRecord(*effect.Record, []byte) Ack                  { return hookAck{h.synced} }

type hookAck struct{ f func() }

func (a hookAck) Wait() error { a.f(); return nil }

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(f string, a ...any) {
	panic(fmt.Sprintf(f, a...))
}

// TestFlagsTogether changes the flags of many messages again and again, all at
// once and one by one, with expunges between, so that rows of flags lie over
// the messages' and are folded; what a fresh look at the disk gives is the same
// all the time, also after a crash with nothing but the log.
func TestFlagsTogether(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := openStore(t, fs, Options{})
	ctx := t.Context()
	u := createUser(t, s, bob)
	const n = 400
	var list []backend.Incoming
	for i := range n {
		list = append(list, in(text(byte(i))))
	}
	if _, err := u.Append(ctx, "INBOX", list); err != nil {
		t.Fatal(err)
	}
	inbox, _ := u.Mailbox(ctx, "INBOX")
	all := make([]backend.UID, n)
	for i := range all {
		all[i] = backend.UID(i + 1)
	}
	overlaid := func() uint64 { return u.(*mail).u.boxes[inbox.ID].Overlaid }
	folded, before := 0, uint64(0)
	for i := range 80 {
		uids, op := all[:n-1], []backend.FlagOp{backend.FlagsAdd, backend.FlagsRemove}[i%2]
		switch i % 5 {
		case 3:
			uids = all[i : i+100]
		case 4:
			uids = all[i : i+2]
		}
		if i == 72 {
			uids = all // no other row of flags stays
		}
		if _, _, err := u.SetFlags(ctx, inbox.ID, uids, backend.FlagChange{Op: op, Flags: []string{`\Seen`, "k"}}); err != nil {
			t.Fatal(err)
		}
		if i%9 == 0 {
			if _, err := u.Expunge(ctx, inbox.ID, []backend.UID{backend.UID(i*4 + 1)}, false); err != nil {
				t.Fatal(err)
			}
		}
		if i == 72 && overlaid() > n {
			t.Errorf("%d flags over %d messages after all were set", overlaid(), n)
		}
		if overlaid() < before && i != 72 {
			folded++
		}
		before = overlaid()
		if i%20 == 0 || i == 79 {
			want := dump(t, s)
			u.(*mail).u.boxes[inbox.ID].letGo()
			if got := dump(t, s); got != want {
				t.Fatalf("change %d: read again\n%s\nwant\n%s", i, got, want)
			}
			if err := s.Check(ctx); err != nil {
				t.Fatal(err)
			}
			crashed := openStore(t, fs.CrashClone(vfs.CrashCloneCfg{}), Options{})
			if got := dump(t, crashed); got != want {
				t.Fatalf("change %d: after a crash\n%s\nwant\n%s", i, got, want)
			}
			if err := crashed.Check(ctx); err != nil {
				t.Fatal(err)
			}
			closeStore(t, crashed)
		}
	}
	if folded == 0 || before == 0 {
		t.Errorf("rows of flags were folded %d times, %d are left", folded, before)
	}
	if err := u.Rename(ctx, "INBOX", "old"); err != nil {
		t.Fatal(err)
	}
	if err := u.Delete(ctx, "old"); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(ctx); err != nil {
		t.Error(err)
	}
	closeStore(t, s)
}
