package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"switchyard/backend"
	"switchyard/backend/store/segment"
)

// halfDead delivers to two accounts and the queue, and expunges most of it, so
// that many sealed segments have little left.
func halfDead(t *testing.T, s *Store) {
	t.Helper()
	ctx := t.Context()
	for i, account := range []string{bob, "eve"} {
		u := createUser(t, s, account)
		for n := range byte(24) {
			deliver(t, u, n+1, text(n+byte(i)))
		}
		big := strings.Repeat(text(9), 5000)
		if _, err := u.Append(ctx, "INBOX", []backend.Incoming{in(big), in("x")}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.QueueAdd(ctx, []byte(account), strings.NewReader(text(1)), int64(len(text(1)))); err != nil {
			t.Fatal(err)
		}
		inbox, err := u.Mailbox(ctx, "INBOX")
		if err != nil {
			t.Fatal(err)
		}
		var gone []backend.UID
		for n := backend.UID(1); n <= 24; n++ {
			if n%5 != 0 {
				gone = append(gone, n)
			}
		}
		if _, err := u.Copy(ctx, inbox.ID, []backend.UID{5, 10}, "Archive"); err != nil {
			t.Fatal(err)
		}
		if _, err := u.Expunge(ctx, inbox.ID, gone, false); err != nil {
			t.Fatal(err)
		}
	}
}

var compactOptions = Options{SegmentLimit: 3000, Writers: 2, CompactRate: -1}

func segmentFiles(t *testing.T, fs vfs.FS) map[string]string {
	t.Helper()
	names, err := fs.List("store/segments")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, name := range names {
		if files[name], err = readFile(fs, "store/segments/"+name); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// TestCompact moves what is live and deletes the rest: all that is seen stays,
// bodies that are open stay readable, and no sealed file changes.
func TestCompact(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs, compactOptions)
	halfDead(t, s)
	want, before := dump(t, s), segmentFiles(t, fs)
	u := userOf(t, s, bob)
	inbox, _ := u.Mailbox(t.Context(), "INBOX")
	open, err := u.Body(t.Context(), inbox.ID, 25)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	done, err := s.Compact(t.Context())
	if err != nil || done.Segments < 2 || done.Bodies < done.Segments {
		t.Errorf("compacted %+v, %v", done, err)
	}
	if got := dump(t, s); got != want {
		t.Errorf("after compaction\n%s\nwant\n%s", got, want)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	after, gone := segmentFiles(t, fs), 0
	for name, was := range before {
		now, ok := after[name]
		if !ok {
			gone++
		} else if strings.HasSuffix(was, segmentSeal(was)) && now != was {
			t.Errorf("%s was sealed, and has changed", name)
		}
	}
	if gone < done.Segments {
		t.Errorf("%d segments gone, want %d at least", gone, done.Segments)
	}
	if text, err := io.ReadAll(io.NewSectionReader(open, 0, open.Size())); err != nil || int64(len(text)) != open.Size() {
		t.Errorf("a body that was open: %d bytes, %v", len(text), err)
	}
	if again, err := s.Compact(t.Context()); err != nil || again.Bodies != 0 {
		t.Errorf("a second time: %+v, %v", again, err)
	}
	closeStore(t, s)
	s = openStore(t, fs, compactOptions)
	if got := dump(t, s); got != want {
		t.Error("another state after opening again")
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	closeStore(t, s)
}

// segmentSeal returns the last bytes of a file when they begin as a seal does.
func segmentSeal(file string) string {
	if i := strings.LastIndex(file, "\xf5SWE"); i >= 0 && len(file)-i == 28 {
		return file[i:]
	}
	return "\x00never"
}

// TestCrashInCompaction pulls the plug before and after every sync of a
// compaction. What is left shows the same, and can be compacted.
func TestCrashInCompaction(t *testing.T) {
	t.Parallel()
	fs := newCrashFS(vfs.NewCrashableMem())
	s := openStore(t, fs, compactOptions)
	halfDead(t, s)
	want := dump(t, s)
	var mu sync.Mutex
	var left []*vfs.MemFS
	fs.onCrash(func(_ int64, mem *vfs.MemFS) {
		mu.Lock()
		defer mu.Unlock()
		left = append(left, mem)
	})
	if done, err := s.Compact(t.Context()); err != nil || done.Segments == 0 {
		t.Errorf("%+v, %v", done, err)
	}
	mu.Lock()
	left = append(left, fs.mem.CrashClone(vfs.CrashCloneCfg{}))
	mu.Unlock()
	fs.onCrash(nil)
	closeStore(t, s)
	if len(left) < 8 {
		t.Errorf("only %d moments", len(left))
	}
	every := 1
	if testing.Short() {
		every = 12
	}
	for i, mem := range left {
		if i%every != 0 && i != len(left)-1 {
			continue
		}
		s := openStore(t, mem, compactOptions)
		if got := dump(t, s); got != want {
			t.Fatalf("moment %d of %d: the store shows\n%s\nwant\n%s", i, len(left), got, want)
		}
		if err := s.Check(t.Context()); err != nil {
			t.Fatalf("moment %d: %v", i, err)
		}
		if _, err := s.Compact(t.Context()); err != nil {
			t.Errorf("moment %d: %v", i, err)
		}
		if got := dump(t, s); got != want {
			t.Fatalf("moment %d: compacted, it shows\n%s\nwant\n%s", i, got, want)
		}
		if err := s.Check(t.Context()); err != nil {
			t.Fatalf("moment %d: compacted: %v", i, err)
		}
		closeStore(t, s)
	}
}

// TestRemoveDeadTogether: the sweeper and a compaction may find the same segment
// dead; that is no error of either.
func TestRemoveDeadTogether(t *testing.T) {
	t.Parallel()
	for range 20 {
		s := openStore(t, vfs.NewMem(), compactOptions)
		u := createUser(t, s, bob)
		for n := range byte(24) {
			deliver(t, u, n+1, text(n))
		}
		inbox, err := u.Mailbox(t.Context(), "INBOX")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Expunge(t.Context(), inbox.ID, nil, false); err != nil {
			t.Fatal(err)
		}
		var together sync.WaitGroup
		for range 8 {
			together.Go(func() {
				if err := s.removeDead(); err != nil {
					t.Error(err)
				}
			})
		}
		together.Wait()
		closeStore(t, s)
	}
}

// TestCompactUnderWay compacts without end while sessions deliver, expunge and
// read.
func TestCompactUnderWay(t *testing.T) {
	t.Parallel()
	s := openStore(t, vfs.NewMem(), compactOptions)
	ctx := t.Context()
	stop := make(chan struct{})
	var compacting, sessions sync.WaitGroup
	moved, deliveries := 0, 120
	if testing.Short() {
		deliveries = 50
	}
	compacting.Go(func() {
		for {
			done, err := s.Compact(ctx)
			if err != nil {
				t.Error(err)
			}
			moved += done.Bodies
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for i := range 3 {
		u := createUser(t, s, fmt.Sprint("user", i))
		sessions.Go(func() {
			texts := map[backend.UID]string{}
			for n := range deliveries {
				body := text(byte(n))
				d := deliver(t, u, byte(n+1), body)
				texts[d.UID] = body
				if n%4 == 3 {
					var gone []backend.UID
					for uid := range texts {
						if uid%7 != 0 {
							gone = append(gone, uid)
							delete(texts, uid)
						}
					}
					if _, err := u.Expunge(ctx, d.Mailbox, gone, false); err != nil {
						t.Error(err)
					}
				}
				for uid, want := range texts {
					b, err := u.Body(ctx, d.Mailbox, uid)
					if err != nil {
						t.Errorf("body %d: %v", uid, err)
						return
					}
					got, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
					b.Close()
					if err != nil || string(got) != want {
						t.Errorf("body %d reads wrong: %v", uid, err)
					}
				}
			}
		})
	}
	sessions.Wait()
	close(stop)
	compacting.Wait()
	if moved == 0 {
		t.Error("nothing was moved")
	}
	if err := s.Check(ctx); err != nil {
		t.Error(err)
	}
	closeStore(t, s)
}

// TestCompactDamage: a damaged segment is an error and stays; others go.
func TestCompactDamage(t *testing.T) {
	mem := vfs.NewMem()
	s := openStore(t, mem, compactOptions)
	defer closeStore(t, s)
	halfDead(t, s)
	i := slices.IndexFunc(s.segments.Sealed(), func(id uint32) bool {
		l := s.live.of(id)
		return l.Bodies > 0 && 2*l.Bytes < s.segments.Size(id)
	})
	if i < 0 {
		t.Fatal("nothing to compact")
	}
	id := s.segments.Sealed()[i]
	data, err := mem.UnsafeGetFileDataBuffer(fmt.Sprintf("store/segments/%08d.seg", id))
	if err != nil {
		t.Fatal(err)
	}
	data[100] ^= 1
	done, err := s.Compact(t.Context())
	if !errors.Is(err, segment.ErrDamaged) || done.Segments == 0 || s.segments.Size(id) == 0 {
		t.Errorf("compacted %+v, %v; the damaged segment has %d bytes", done, err, s.segments.Size(id))
	}
	data[100] ^= 1
	if done, err := s.Compact(t.Context()); err != nil || done.Segments != 1 {
		t.Errorf("repaired: %+v, %v", done, err)
	}
}

// TestCompactPace: the rate holds, and the end of the context ends it.
func TestCompactPace(t *testing.T) {
	t.Parallel()
	s := openStore(t, vfs.NewMem(), compactOptions)
	defer closeStore(t, s)
	c := &compactor{s: s, ctx: t.Context(), rate: 1 << 20, start: s.opts.Clock()}
	for range 10 {
		if err := c.pace(1 << 14); err != nil {
			t.Fatal(err)
		}
	}
	if took := s.opts.Clock().Sub(c.start).Milliseconds(); took < 150 {
		t.Errorf("160 KB at 1 MB/s took %d ms", took)
	}
	halfDead(t, s)
	want := dump(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.compact(ctx, 1); !errors.Is(err, ctx.Err()) {
		t.Errorf("ended: %v", err)
	}
	if dump(t, s) != want {
		t.Error("an ended compaction has changed something")
	}
}
