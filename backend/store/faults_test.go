package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"switchyard/backend"
)

// faulty fails operations while it is armed.
type faulty struct {
	armed atomic.Bool
	when  func(errorfs.Op) error
}

func (f *faulty) fs(inner vfs.FS) vfs.FS {
	return errorfs.Wrap(inner, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if f.armed.Load() {
			return f.when(op)
		}
		return nil
	}))
}

// testClock is a clock that a test moves.
type testClock struct{ n atomic.Int64 }

func (c *testClock) now() time.Time      { return time.Unix(1_800_000_000, c.n.Load()) }
func (c *testClock) add(d time.Duration) { c.n.Add(int64(d)) }

// TestDiskFullForBodies: while no body can be written, whatever adds is refused
// as busy and has changed nothing; what takes away works; when there is room
// again, all works.
func TestDiskFullForBodies(t *testing.T) {
	mem, clock := vfs.NewMem(), &testClock{}
	f := &faulty{when: func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileWriteAt && filepath.Ext(op.Path) == ".seg" || op.Kind == errorfs.OpCreate {
			return syscall.ENOSPC
		}
		return nil
	}}
	s := openStore(t, f.fs(mem), Options{Clock: clock.now, SegmentLimit: 3000})
	u := createUser(t, s, bob)
	for n := range byte(4) {
		deliver(t, u, n+1, text(n))
	}
	before := dump(t, s)
	f.armed.Store(true)
	ctx := t.Context()
	adds := map[string]func() error{
		"deliver": func() error {
			_, err := u.Deliver(ctx, backend.Delivery{Incoming: in(text(9)), ID: [32]byte{9}})
			return err
		},
		"append": func() error {
			_, err := u.Append(ctx, "Sent", []backend.Incoming{in(text(9)), in(text(8))})
			return err
		},
		"big append": func() error {
			_, err := u.Append(ctx, "Sent", []backend.Incoming{in(strings.Repeat(text(9), 5000))})
			return err
		},
		"queue": func() error {
			_, err := s.QueueAdd(ctx, nil, strings.NewReader("x"), 1)
			return err
		},
	}
	for range 3 {
		for name, do := range adds {
			if err := do(); !errors.Is(err, backend.ErrBusy) {
				t.Errorf("%s: %v, want ErrBusy", name, err)
			}
		}
		clock.add(2 * time.Second)
	}
	if after := dump(t, s); after != before {
		t.Errorf("refused changes left\n%s\nwas\n%s", after, before)
	}
	inbox, _ := u.Mailbox(ctx, "INBOX")
	if gone, err := u.Expunge(ctx, inbox.ID, []backend.UID{1}, false); err != nil || len(gone) != 1 {
		t.Errorf("expunge on a full disk: %v, %v", gone, err)
	}
	f.armed.Store(false)
	clock.add(2 * time.Second)
	for name, do := range adds {
		if err := do(); err != nil {
			t.Errorf("%s with room again: %v", name, err)
		}
	}
	if err := s.Check(ctx); err != nil {
		t.Error(err)
	}
	after := dump(t, s)
	closeStore(t, s)
	s = openStore(t, mem, Options{})
	if again := dump(t, s); again != after {
		t.Error("another state after opening again")
	}
	closeStore(t, s)
}

// TestDiskFullForTheLog: a write of the log that finds the disk full is tried
// again once the ballast is gone. The change gets through, the next ones are
// refused until there is room.
func TestDiskFullForTheLog(t *testing.T) {
	mem, clock := vfs.NewMem(), &testClock{}
	mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 40, TotalBytes: 1 << 41})
	var failed atomic.Int32
	f := &faulty{when: func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileWrite && filepath.Ext(op.Path) == ".log" && failed.CompareAndSwap(0, 1) {
			return syscall.ENOSPC
		}
		return nil
	}}
	s := openStore(t, f.fs(mem), Options{Clock: clock.now})
	u := createUser(t, s, bob)
	if _, err := mem.Stat("store/BALLAST"); err != nil {
		t.Fatalf("no ballast: %v", err)
	}
	f.armed.Store(true)
	deliver(t, u, 1, text(1))
	if failed.Load() != 1 {
		t.Fatal("no write of the log failed")
	}
	if _, err := mem.Stat("store/BALLAST"); err == nil {
		t.Error("the ballast is still there")
	}
	_, err := u.Deliver(t.Context(), backend.Delivery{Incoming: in(text(2))})
	if !errors.Is(err, backend.ErrBusy) {
		t.Errorf("the next delivery: %v, want ErrBusy", err)
	}
	clock.add(2 * time.Second)
	deliver(t, u, 3, text(3))
	if err := s.space.recover(); err != nil {
		t.Error(err)
	}
	if _, err := mem.Stat("store/BALLAST"); err != nil {
		t.Errorf("the ballast was not made again: %v", err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	closeStore(t, s)
}

// TestReserve: additions stop before the disk is full.
func TestReserve(t *testing.T) {
	mem, clock := vfs.NewMem(), &testClock{}
	usage := func(free uint64) { mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: free, TotalBytes: 1 << 40}) }
	usage(1 << 30)
	s := openStore(t, mem, Options{Clock: clock.now, Reserve: 1 << 20})
	defer closeStore(t, s)
	u := createUser(t, s, bob)
	d := deliver(t, u, 1, text(1))
	for _, step := range []struct {
		free uint64
		want error
	}{{1 << 20, backend.ErrBusy}, {2 << 20, nil}, {100, backend.ErrBusy}, {1 << 30, nil}} {
		usage(step.free)
		clock.add(2 * time.Second)
		_, err := u.Deliver(t.Context(), backend.Delivery{Incoming: in(text(2))})
		if !errors.Is(err, step.want) {
			t.Errorf("%d bytes free: %v, want %v", step.free, err, step.want)
		}
		_, _, err = u.SetFlags(t.Context(), d.Mailbox, []backend.UID{d.UID}, backend.FlagChange{Flags: []string{`\Seen`}})
		if err != nil {
			t.Errorf("%d bytes free: flags: %v", step.free, err)
		}
	}
}

// TestWriteFaultSweep fails the 1st, 2nd, … write to the segments, alone, until
// there is none left to fail. Whatever was refused is not there; whatever was
// not, is.
func TestWriteFaultSweep(t *testing.T) {
	t.Parallel()
	stride := int32(1)
	if testing.Short() {
		stride = 7
	}
	for n := int32(0); ; n += stride {
		mem := vfs.NewMem()
		var count atomic.Int32
		f := &faulty{when: func(op errorfs.Op) error {
			if op.Kind == errorfs.OpFileWriteAt && count.Add(1) == n+1 {
				return syscall.EIO
			}
			return nil
		}}
		s := openStore(t, f.fs(mem), Options{SegmentLimit: 1500, Writers: 1})
		createUser(t, s, bob)
		f.armed.Store(true)
		state := dump(t, s)
		for i, st := range scenario()[1:] {
			err := st.do(t, s)
			now := dump(t, s)
			switch {
			case err == nil:
			case now != state:
				t.Fatalf("write %d failed: step %d, %q, was refused (%v), and left\n%s\nwas\n%s", n, i, st.name, err, now, state)
			}
			state = now
		}
		f.armed.Store(false)
		if err := s.Check(t.Context()); err != nil {
			t.Fatalf("write %d failed: %v", n, err)
		}
		closeStore(t, s)
		s = openStore(t, mem, Options{SegmentLimit: 1500, Writers: 1})
		if now := dump(t, s); now != state {
			t.Fatalf("write %d failed: opened again\n%s\nwas\n%s", n, now, state)
		}
		closeStore(t, s)
		if count.Load() <= n {
			if n < 8 {
				t.Errorf("only %d writes were there to fail", n)
			}
			return
		}
	}
}

// TestSyncErrorIsTheEnd: when a sync fails, of a body or of the log, with
// whatever error, the store calls Fatal, does not acknowledge, and does not
// sync that file again.
func TestSyncErrorIsTheEnd(t *testing.T) {
	for _, c := range []struct {
		ext  string
		fail error
	}{{".seg", syscall.EIO}, {".seg", syscall.ENOSPC}, {".log", syscall.EIO}, {".log", syscall.ENOSPC}} {
		mem := vfs.NewCrashableMem()
		var after atomic.Int32
		var failed atomic.Bool
		f := &faulty{when: func(op errorfs.Op) error {
			isSync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData
			if !isSync || filepath.Ext(op.Path) != c.ext {
				return nil
			}
			if failed.Swap(true) {
				after.Add(1)
				return nil
			}
			return c.fail
		}}
		var fatal atomic.Int32
		s := openStore(t, f.fs(mem), Options{Writers: 1, Fatal: func(error) { fatal.Add(1) }})
		u := createUser(t, s, bob)
		deliver(t, u, 1, text(1))
		before := dump(t, s)
		f.armed.Store(true)
		_, err := u.Deliver(context.Background(), backend.Delivery{Incoming: in(text(2)), ID: [32]byte{2}})
		if err == nil || fatal.Load() == 0 {
			t.Errorf("%s, %v: answered %v, fatal %d times", c.ext, c.fail, err, fatal.Load())
		}
		if c.ext == ".log" && !errors.Is(err, backend.ErrOutcomeUnknown) {
			t.Errorf("%s: %v, want ErrOutcomeUnknown", c.ext, err)
		}
		if now := dump(t, s); now != before {
			t.Errorf("%s: what is not durable is seen", c.ext)
		}
		if _, err := u.Deliver(context.Background(), backend.Delivery{Incoming: in(text(3))}); err == nil {
			t.Errorf("%s: a later delivery was acknowledged", c.ext)
		}
		if after.Load() > 0 {
			t.Errorf("%s: synced again", c.ext)
		}
		// The process would be dead now. What it left is whole.
		again := openStore(t, mem.CrashClone(vfs.CrashCloneCfg{}), Options{})
		if now := dump(t, again); now != before {
			t.Errorf("%s: after the crash\n%s\nwas\n%s", c.ext, now, before)
		}
		if err := again.Check(context.Background()); err != nil {
			t.Error(err)
		}
		closeStore(t, again)
	}
}

// TestSyncIsTriedOnce: what tries writes again on a full disk must not do so
// with syncs.
func TestSyncIsTriedOnce(t *testing.T) {
	syncs := 0
	f := &faulty{when: func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
			syncs++
			return syscall.ENOSPC
		}
		return nil
	}}
	f.armed.Store(true)
	fs := vfs.OnDiskFull(syncOnce{f.fs(vfs.NewMem())}, func() {})
	file, err := fs.Create("x", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if file.Sync() == nil || file.SyncData() == nil || syncs != 2 {
		t.Errorf("two failing syncs were made %d times", syncs)
	}
}

// TestFlippedByte flips bytes of a segment under a store: a body that is hit
// cannot be read, and never reads wrong.
func TestFlippedByte(t *testing.T) {
	mem := vfs.NewMem()
	s := openStore(t, mem, Options{Writers: 1})
	defer closeStore(t, s)
	u := createUser(t, s, bob)
	d := deliver(t, u, 1, text(1))
	data, err := mem.UnsafeGetFileDataBuffer("store/segments/00000001.seg")
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		at, bit := r.IntN(len(data)), byte(1)<<r.IntN(8)
		data[at] ^= bit
		b, err := u.Body(t.Context(), d.Mailbox, d.UID)
		if err == nil {
			var got bytes.Buffer
			_, err = io.Copy(&got, io.NewSectionReader(b, 0, b.Size()))
			b.Close()
		}
		if err == nil || errors.Is(err, io.EOF) || errors.Is(err, backend.ErrNoMessage) {
			t.Fatalf("byte %d flipped: %v", at, err)
		}
		if at%10 == 0 && s.Check(t.Context()) == nil {
			t.Fatalf("byte %d flipped: Check finds nothing", at)
		}
		data[at] ^= bit
	}
	if got := bodyOf(t, u, d.Mailbox, d.UID); got != text(1) {
		t.Error("whole again, but reads wrong")
	}
}
