package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/store/segment"
)

// mirrored returns options of one half of a mirror. commit says how far the log
// counts at start; nil: as far as the state.
func mirrored(o Options, commit func(shard uint8, log effect.Log) uint64) Options {
	if commit == nil {
		commit = func(uint8, effect.Log) uint64 { return 0 }
	}
	o.Commit = commit
	return o
}

// openAll opens all shards for changes.
func openAll(s *Store, epoch uint64) {
	for i := range shards {
		if err := s.SetWriter(uint8(i), true, epoch); err != nil {
			panic(err)
		}
	}
}

// follow brings a follower's log to what a writer shipped, as a mirror does: it
// asks for bodies when they are missing. It reports what it appended.
func follow(t testing.TB, s *Store, r *recorder) (appended int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.records {
		last := s.ShardLog(rec.Shard).Last
		if rec.Seq <= last {
			continue
		}
		encoded := [][]byte{effect.AppendRecord(nil, rec)}
		err := s.AppendLog(rec.Shard, last, encoded)
		var missing MissingBodies
		if errors.As(err, &missing) {
			for _, guid := range missing {
				body := r.bodies[guid]
				info := segment.Info{GUID: guid, User: rec.User}
				if err := s.Receive(rec.Shard, info, bytes.NewReader([]byte(body)), int64(len(body))); err != nil {
					t.Fatal(err)
				}
			}
			err = s.AppendLog(rec.Shard, last, encoded)
		}
		if err != nil {
			t.Fatalf("record %d of shard %d: %v", rec.Seq, rec.Shard, err)
		}
		appended++
	}
	return appended
}

// applyAll applies all that the logs have.
func applyAll(t testing.TB, s *Store) {
	t.Helper()
	for i := range shards {
		if misfits, err := s.Apply(t.Context(), uint8(i), s.ShardLog(uint8(i)).Last); err != nil || misfits != nil {
			t.Fatalf("shard %d: %v, %v", i, misfits, err)
		}
	}
}

// TestFollow has a follower write and apply each record of a writer, and pulls the
// follower's plug before and after every sync. What it shows is the writer's state
// after some of the steps: those that it had applied, or fewer, since what counts is
// for the mirror to say; and brought to the end it is the same as the writer.
func TestFollow(t *testing.T) {
	t.Parallel()
	r := &recorder{bodies: map[backend.GUID]string{}}
	writer := openStore(t, vfs.NewMem(), mirrored(Options{Replicator: r}, nil))
	openAll(writer, 7)
	fs := newCrashFS(vfs.NewCrashableMem())
	var mu sync.Mutex
	var left []*vfs.MemFS
	fs.onCrash(func(_ int64, l *vfs.MemFS) {
		mu.Lock()
		defer mu.Unlock()
		left = append(left, l)
	})
	s := openStore(t, fs, mirrored(crashOptions, nil))
	states := []string{dump(t, writer)}
	for _, st := range scenario() {
		if err := st.do(t, writer); err != nil {
			t.Fatalf("%s: %v", st.name, err)
		}
		before := states[len(states)-1]
		states = append(states, dump(t, writer))
		if follow(t, s, r) > 0 && dump(t, s) != before {
			t.Fatalf("%s: records that are not applied are seen:\n%s", st.name, dump(t, s))
		}
		applyAll(t, s)
		if got, want := dump(t, s), states[len(states)-1]; got != want {
			t.Fatalf("%s: the follower shows\n%s\nwant\n%s", st.name, got, want)
		}
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if log := s.ShardLog(shardOf(bob)); !slices.Equal(log.Spans, []effect.Span{{Epoch: 7, Last: log.Last}}) || log.Applied != log.Last {
		t.Errorf("the log is %+v", log)
	}
	if len(s.held.places) > 0 {
		t.Errorf("%d bodies are held in the end", len(s.held.places))
	}
	fs.onCrash(nil)
	closeStore(t, s)
	closeStore(t, writer)

	for i, l := range left {
		if testing.Short() && i%9 != 0 {
			continue
		}
		alone := i%5 == 4 // somebody has dissolved the mirror: all of the log counts
		opts := mirrored(crashOptions, nil)
		if alone {
			opts.Commit = nil
		}
		s := openStore(t, l, opts)
		if got := dump(t, s); !slices.Contains(states, got) {
			t.Fatalf("moment %d: the store shows\n%s", i, got)
		}
		if alone {
			if err := s.Check(t.Context()); err != nil {
				t.Fatalf("moment %d: %v", i, err)
			}
			closeStore(t, s)
			continue
		}
		for shard := range shards {
			if log := s.ShardLog(uint8(shard)); log.Applied > log.Last || log.Last > 0 && log.EpochOf(log.Last) != 7 {
				t.Fatalf("moment %d: the log is %+v", i, log)
			}
		}
		follow(t, s, r)
		applyAll(t, s)
		if got := dump(t, s); got != states[len(states)-1] {
			t.Fatalf("moment %d: in the end the store shows\n%s\nwant\n%s", i, got, states[len(states)-1])
		}
		if err := s.Check(t.Context()); err != nil {
			t.Fatalf("moment %d: %v", i, err)
		}
		closeStore(t, s)
	}
	if len(left) < 100 {
		t.Errorf("only %d moments", len(left))
	}
}

// TestRest leaves records in the log whose fate nobody knows. They are not seen,
// the shard takes no more, also after a crash, and then they count or they go away:
// a delivery sent again is there once either way, and in the second case under
// the same UID, which nobody had seen.
func TestRest(t *testing.T) {
	for _, crash := range []bool{false, true} {
		for _, counts := range []bool{false, true} {
			t.Run(fmt.Sprintf("crash %v counts %v", crash, counts), func(t *testing.T) {
				ctx := t.Context()
				r := &recorder{bodies: map[backend.GUID]string{}}
				fs := vfs.NewCrashableMem()
				opts := mirrored(Options{Replicator: r, SegmentLimit: 1000}, func(shard uint8, log effect.Log) uint64 {
					return min(log.Last, map[uint8]uint64{shardOf(bob): 2}[shard])
				})
				s := openStore(t, fs, opts)
				if _, err := s.CreateUser(ctx, bob, 1); !errors.Is(err, backend.ErrBusy) {
					t.Errorf("a change of a closed shard: %v", err)
				}
				openAll(s, 3)
				u := createUser(t, s, bob)
				secret := make([]byte, 9000) // fills a segment, whatever is done to it
				rand.NewChaCha8([32]byte{}).Read(secret)
				first := deliver(t, u, 1, fmt.Sprintf("%x\r\n", secret))
				before := dump(t, s)
				r.lose = errors.New("the other node is gone")
				second := text(2) + fmt.Sprintf("%x\r\n", secret)
				d := backend.Delivery{Incoming: in(second), ID: [32]byte{2}}
				if _, err := u.Deliver(ctx, d); !errors.Is(err, backend.ErrOutcomeUnknown) {
					t.Fatalf("a delivery without an answer: %v", err)
				}
				r.lose = nil
				if crash {
					left := fs.CrashClone(vfs.CrashCloneCfg{})
					closeStore(t, s)
					s = openStore(t, left, opts)
					openAll(s, 4)
					u = userOf(t, s, bob)
				}
				defer func() { closeStore(t, s) }()
				if _, err := u.Deliver(ctx, d); !errors.Is(err, backend.ErrBusy) {
					t.Errorf("a delivery behind the rest: %v", err)
				}
				if got := dump(t, s); got != before {
					t.Errorf("the rest is seen:\n%s", got)
				}
				for n := range byte(4) { // every writer seals what is full
					p, err := s.segments.Append(n, segment.Info{GUID: backend.GUID{n}}, bytes.NewReader(secret), int64(len(secret)))
					if err != nil {
						t.Fatal(err)
					}
					s.segments.Unpin(p)
				}
				if err := s.removeDead(); err != nil {
					t.Fatal(err)
				}
				shard := shardOf(bob)
				if log := s.ShardLog(shard); log.Last != 3 || log.Applied != 2 {
					t.Fatalf("the log is %+v", log)
				}
				if counts {
					if misfits, err := s.Apply(ctx, shard, 3); misfits != nil || err != nil {
						t.Fatalf("%v, %v", misfits, err)
					}
				} else {
					if err := s.AppendLog(shard, 2, nil); !errors.Is(err, errOpenShard) {
						t.Errorf("the log of an open shard is cut: %v", err)
					}
					if err := s.SetWriter(shard, false, 0); err != nil {
						t.Fatal(err)
					}
					if err := s.AppendLog(shard, 2, nil); err != nil {
						t.Fatal(err)
					}
					if err := s.SetWriter(shard, true, 5); err != nil {
						t.Fatal(err)
					}
				}
				again, err := u.Deliver(ctx, d)
				if err != nil || again.Duplicate != counts || again.UID != first.UID+1 {
					t.Errorf("delivered again: %+v, %v", again, err)
				}
				if got := bodyOf(t, u, again.Mailbox, again.UID); got != second {
					t.Errorf("another body, of %d bytes", len(got))
				}
				if err := s.Check(ctx); err != nil {
					t.Error(err)
				}
				if len(s.held.places) > 0 {
					t.Errorf("%d bodies are held in the end", len(s.held.places))
				}
			})
		}
	}
}

// TestAppendLogRefuses proves that what does not follow changes nothing.
func TestAppendLogRefuses(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs, mirrored(Options{}, nil))
	shard := shardOf(bob)
	record := func(epoch, seq uint64, change func(*effect.Record)) []byte {
		r := &effect.Record{Shard: shard, Epoch: epoch, Seq: seq, User: bob, Effects: []effect.Effect{effect.GenerationSeen{Generation: seq}}}
		if change != nil {
			change(r)
		}
		return effect.AppendRecord(nil, r)
	}
	created := func(r *effect.Record) { r.Effects = []effect.Effect{effect.UserCreated{ID: backend.GUID{1}}} }
	if err := s.AppendLog(shard, 0, [][]byte{record(4, 1, created), record(8, 2, nil), record(8, 3, nil), record(9, 4, nil)}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(t.Context(), shard, 2); err != nil {
		t.Fatal(err)
	}
	want := effect.Log{Spans: []effect.Span{{Epoch: 4, Last: 1}, {Epoch: 8, Last: 3}, {Epoch: 9, Last: 4}}, Last: 4, Applied: 2}
	same := func(name string) {
		t.Helper()
		if log := s.ShardLog(shard); fmt.Sprint(log) != fmt.Sprint(want) {
			t.Fatalf("%s: the log is %+v, want %+v", name, log, want)
		}
	}
	same("at first")
	for name, c := range map[string]struct {
		after   uint64
		records [][]byte
	}{
		"a gap":             {5, [][]byte{record(9, 6, nil)}},
		"another number":    {4, [][]byte{record(9, 6, nil)}},
		"a gap within":      {4, [][]byte{record(9, 5, nil), record(9, 7, nil)}},
		"an older epoch":    {4, [][]byte{record(8, 5, nil)}},
		"older within":      {4, [][]byte{record(9, 5, nil), record(8, 6, nil)}},
		"applied":           {1, [][]byte{record(9, 2, nil)}},
		"applied is cut":    {1, nil},
		"another shard":     {4, [][]byte{record(9, 5, func(r *effect.Record) { r.Shard++ })}},
		"another's account": {4, [][]byte{record(9, 5, func(r *effect.Record) { r.User = "" })}},
		"no record":         {4, [][]byte{{1, 2}}},
		"a body that is nowhere": {4, [][]byte{record(9, 5, func(r *effect.Record) {
			r.Effects = []effect.Effect{effect.MessageAdded{Message: backend.Message{UID: 1, GUID: backend.GUID{5}}}}
		})}},
	} {
		if err := s.AppendLog(shard, c.after, c.records); err == nil {
			t.Errorf("%s: no error", name)
		}
		same(name)
	}
	if got, err := s.Records(shard, 2, 4); err != nil || len(got) != 3 || !bytes.Equal(got[2], record(9, 4, nil)) {
		t.Errorf("%d records, %v", len(got), err)
	}
	if _, err := s.Records(shard, 2, 5); !errors.Is(err, ErrForgotten) {
		t.Errorf("records that are not there: %v", err)
	}
	// A body that came for a record goes with it, and comes again.
	box := backend.GUID{3}
	added := record(9, 5, func(r *effect.Record) {
		r.Effects = []effect.Effect{
			effect.MailboxCreated{Mailbox: box, Name: "INBOX", UIDValidity: 1},
			effect.MessageAdded{Mailbox: box, Message: backend.Message{UID: 1, ModSeq: 2, GUID: backend.GUID{6}, Size: 4}},
		}
	})
	for range 2 {
		if err := s.AppendLog(shard, 4, [][]byte{added}); !errors.As(err, new(MissingBodies)) {
			t.Errorf("a record whose body went: %v", err)
		}
		for range 2 { // once is enough
			if err := s.Receive(shard, segment.Info{GUID: backend.GUID{6}}, bytes.NewReader([]byte("mail")), 4); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.AppendLog(shard, 4, [][]byte{added}); err != nil {
			t.Fatal(err)
		}
		if err := s.AppendLog(shard, 4, nil); err != nil || len(s.held.places) > 0 {
			t.Errorf("%v; %d bodies are held", err, len(s.held.places))
		}
		if err := s.Check(t.Context()); err != nil {
			t.Error(err)
		}
	}
	// One whose record does not come is let go when asked, and no other.
	if err := s.Receive(shard, segment.Info{GUID: backend.GUID{6}}, bytes.NewReader([]byte("mail")), 4); err != nil {
		t.Fatal(err)
	}
	if err := s.AppendLog(shard, 4, [][]byte{added}); err != nil {
		t.Fatal(err)
	}
	if err := s.Receive(shard, segment.Info{GUID: backend.GUID{7}}, bytes.NewReader([]byte("mail")), 4); err != nil {
		t.Fatal(err)
	}
	s.ForgetEarly(shard)
	if _, ok := s.held.get(shard, backend.GUID{6}); !ok || len(s.held.places) != 1 {
		t.Errorf("held are %v", s.held.places)
	}
	if err := s.SetWriter(shard, true, 8); err == nil {
		t.Error("opened in an epoch older than the log's")
	}
	if err := s.AppendLog(shard, 4, nil); err != nil {
		t.Fatal(err)
	}
	// A rest of another epoch goes, and the epochs with it.
	if err := s.AppendLog(shard, 3, [][]byte{record(10, 4, nil)}); err != nil {
		t.Fatal(err)
	}
	want.Spans[2] = effect.Span{Epoch: 10, Last: 4}
	same("cut")
	if err := s.AppendLog(shard, 3, nil); err != nil {
		t.Fatal(err)
	}
	want.Spans, want.Last = want.Spans[:2], 3
	same("cut to the middle")
	closeStore(t, s)
	s = openStore(t, fs, mirrored(Options{}, nil))
	same("opened again")
	// A record whose digests are others is a misfit of its account alone.
	wrong := record(11, 4, func(r *effect.Record) {
		r.Digests = []effect.MailboxDigest{{Mailbox: backend.GUID{2}}}
	})
	if err := s.AppendLog(shard, 3, [][]byte{wrong}); err != nil {
		t.Fatal(err)
	}
	if misfits, err := s.Apply(t.Context(), shard, 4); !slices.Equal(misfits, []string{bob}) || err != nil {
		t.Errorf("misfits %v, %v", misfits, err)
	}
	if _, err := s.User(t.Context(), bob); !errors.Is(err, backend.ErrBusy) {
		t.Errorf("the account is %v", err)
	}
	closeStore(t, s)
}

// heldAcks is a Replicator whose Acks wait for the test.
type heldAcks struct {
	recorder
	shipped chan uint64
	answer  chan error
}

func (h *heldAcks) ShipRecord(r *effect.Record, _ []byte) Ack {
	h.shipped <- r.Seq
	return waitingAck{h.answer}
}

type waitingAck struct{ answer chan error }

func (a waitingAck) Wait() error { return <-a.answer }

// TestApplyLeavesChangesToTheirMakers proves that a record whose change waits for
// its Ack is applied once, by the change; and that the records of one that gave up
// and of those behind it are applied in order by Apply and by their makers.
func TestApplyLeavesChangesToTheirMakers(t *testing.T) {
	ctx := t.Context()
	h := &heldAcks{recorder: recorder{bodies: map[backend.GUID]string{}}, shipped: make(chan uint64, 9), answer: make(chan error, 9)}
	s := openStore(t, vfs.NewMem(), mirrored(Options{Replicator: h}, nil))
	defer closeStore(t, s)
	openAll(s, 1)
	neighbour := ""
	for n := 0; neighbour == "" || shardOf(neighbour) != shardOf(bob); n++ {
		neighbour = fmt.Sprint("neighbour", n)
	}
	for range 2 {
		h.answer <- nil
	}
	createUser(t, s, bob)
	createUser(t, s, neighbour)
	shard := shardOf(bob)
	<-h.shipped
	<-h.shipped

	results := make([]chan error, 2)
	for i, account := range []string{bob, neighbour} {
		results[i] = make(chan error, 1)
		u := userOf(t, s, account)
		go func() {
			_, err := u.Deliver(ctx, backend.Delivery{Incoming: in(text(1)), ID: [32]byte{1}})
			results[i] <- err
		}()
		<-h.shipped
	}
	applied := make(chan error, 1)
	apply := func(seq uint64) {
		_, err := s.Apply(ctx, shard, seq)
		applied <- err
	}
	go apply(3)
	select {
	case err := <-applied:
		t.Fatalf("Apply did not wait for the change: %v", err)
	case err := <-results[0]:
		t.Fatalf("the change did not wait for its Ack: %v", err)
	default:
	}
	// Whichever change hears of it: one gives up, the other is acknowledged.
	h.answer <- errors.New("nobody knows")
	h.answer <- nil
	go apply(4)
	var given, ok int
	for _, result := range results {
		switch err := <-result; {
		case err == nil:
			ok++
		case errors.Is(err, backend.ErrOutcomeUnknown):
			given++
		default:
			t.Error(err)
		}
	}
	for range 2 {
		if err := <-applied; err != nil {
			t.Error(err)
		}
	}
	if given != 1 || ok != 1 {
		t.Errorf("%d gave up, %d are acknowledged", given, ok)
	}
	for _, account := range []string{bob, neighbour} {
		m, err := userOf(t, s, account).Mailbox(ctx, "INBOX")
		if err != nil || m.Messages != 1 {
			t.Errorf("%s has %d messages, %v", account, m.Messages, err)
		}
	}
	if log := s.ShardLog(shard); log.Applied != 4 || log.Last != 4 {
		t.Errorf("the log is %+v", log)
	}
	h.answer <- nil
	deliver(t, userOf(t, s, bob), 2, text(2))
	if err := s.Check(ctx); err != nil {
		t.Error(err)
	}
}

// TestKeepLog proves that records which the other node lacks are not trimmed, and
// that the others are.
func TestKeepLog(t *testing.T) {
	s := openStore(t, vfs.NewMem(), mirrored(Options{LogKeep: 10}, nil))
	defer closeStore(t, s)
	openAll(s, 1)
	u, shard := createUser(t, s, bob), shardOf(bob)
	for _, c := range []struct{ keep, trimmed uint64 }{{5, 4}, {0, 118}, {200, 182}} {
		s.KeepLog(shard, c.keep)
		for range 64 {
			deliver(t, u, 0, text(1))
		}
		log := s.ShardLog(shard)
		if log.Trimmed != c.trimmed {
			t.Errorf("kept from %d: the log is %+v, want it trimmed to %d", c.keep, log, c.trimmed)
		}
		if _, err := s.Records(shard, c.trimmed+1, log.Last); err != nil {
			t.Error(err)
		}
		if _, err := s.Records(shard, c.trimmed, log.Last); !errors.Is(err, ErrForgotten) {
			t.Errorf("a trimmed record: %v", err)
		}
	}
}

// TestFollowFaults fails what a follower writes. A full disk refuses a body, which
// can come again; a sync that fails, of a body or of the log, is the end, and
// nothing that it was for is acknowledged, then or later.
func TestFollowFaults(t *testing.T) {
	r := &recorder{bodies: map[backend.GUID]string{}}
	writer := openStore(t, vfs.NewMem(), mirrored(Options{Replicator: r}, nil))
	defer closeStore(t, writer)
	openAll(writer, 1)
	u, shard := createUser(t, writer, bob), shardOf(bob)
	deliver(t, u, 1, text(1))
	body := func(rec *effect.Record) (segment.Info, *bytes.Reader) {
		guid := bodiesOf(rec)[0]
		return segment.Info{GUID: guid, User: bob}, bytes.NewReader([]byte(r.bodies[guid]))
	}
	for _, c := range []struct {
		ext  string
		kind []errorfs.OpKind
		fail error
		end  bool
	}{
		{".seg", []errorfs.OpKind{errorfs.OpFileWriteAt}, syscall.ENOSPC, false},
		{".seg", []errorfs.OpKind{errorfs.OpFileSync, errorfs.OpFileSyncData}, syscall.EIO, true},
		{".log", []errorfs.OpKind{errorfs.OpFileSync, errorfs.OpFileSyncData}, syscall.EIO, true},
	} {
		mem, clock := vfs.NewCrashableMem(), &testClock{}
		var failed atomic.Bool
		f := &faulty{when: func(op errorfs.Op) error {
			if filepath.Ext(op.Path) == c.ext && slices.Contains(c.kind, op.Kind) && (!failed.Swap(true) || !c.end) {
				return c.fail
			}
			return nil
		}}
		var fatal atomic.Int32
		s := openStore(t, f.fs(mem), mirrored(Options{Clock: clock.now, Writers: 1, Fatal: func(error) { fatal.Add(1) }}, nil))
		created, added := r.records[0], r.records[1]
		if err := s.AppendLog(shard, 0, [][]byte{effect.AppendRecord(nil, created)}); err != nil {
			t.Fatal(err)
		}
		f.armed.Store(true)
		try := func() error {
			info, text := body(added)
			if err := s.Receive(shard, info, text, text.Size()); err != nil {
				return err
			}
			return s.AppendLog(shard, 1, [][]byte{effect.AppendRecord(nil, added)})
		}
		if err := try(); err == nil || c.end != (fatal.Load() > 0) {
			t.Errorf("%s: answered %v, fatal %d times", c.ext, err, fatal.Load())
		}
		f.armed.Store(c.end) // a full disk has room again
		clock.add(2 * time.Second)
		if err := try(); (err != nil) != c.end {
			t.Errorf("%s: answered %v afterwards", c.ext, err)
		}
		if log := s.ShardLog(shard); c.end && (log.Last != 1 || log.Applied != 0) {
			t.Errorf("%s: the log is %+v", c.ext, log)
		}
		again := openStore(t, mem.CrashClone(vfs.CrashCloneCfg{}), mirrored(Options{}, nil))
		follow(t, again, r)
		applyAll(t, again)
		if got, want := dump(t, again), dump(t, writer); got != want {
			t.Errorf("%s: after the crash\n%s\nwant\n%s", c.ext, got, want)
		}
		if err := again.Check(t.Context()); err != nil {
			t.Error(err)
		}
		closeStore(t, again)
		if !c.end {
			closeStore(t, s)
		}
	}
}
