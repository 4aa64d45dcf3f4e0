package segment

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"switchyard/backend"
)

func info(n byte) Info {
	return Info{
		GUID: backend.GUID{n, 1}, Mailbox: backend.GUID{2}, User: "ann@example.test",
		InternalDate: time.Unix(1_700_000_000, 0).UTC(), Flags: []string{`\Seen`, "x"},
	}
}

// content makes a body that compresses about as a mail does.
func content(seed uint64, size int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, size)
	for i := range b {
		b[i] = "abcdefghijklmnop\r\n"[r.IntN(18)]
	}
	return b
}

func open(t *testing.T, fs vfs.FS, opts Options) *Set {
	t.Helper()
	opts.FS = fs
	if opts.Fatal == nil {
		opts.Fatal = func(err error) { t.Errorf("fatal: %v", err) }
	}
	s, err := Open("seg", opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func read(t *testing.T, s *Set, p Place, guid backend.GUID) []byte {
	t.Helper()
	b, err := s.Body(p, guid)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestBodiesComeBack(t *testing.T) {
	fs := vfs.NewMem()
	s := open(t, fs, Options{})
	zeros := make([]byte, 3*FrameSize+5)
	random := make([]byte, FrameSize+1)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(random)
	bodies := [][]byte{
		nil, []byte("x"), content(1, 4096), content(2, FrameSize), content(3, FrameSize+1), zeros, random,
		content(4, streamAbove+1), content(5, 3*streamAbove), make([]byte, 5*streamAbove),
	}
	var places []Place
	for i, body := range bodies {
		p, err := s.Append(uint8(i), info(byte(i)), bytes.NewReader(body), int64(len(body)))
		if err != nil {
			t.Fatal(err)
		}
		places = append(places, p)
	}
	check := func(s *Set) {
		for i, body := range bodies {
			if got := read(t, s, places[i], info(byte(i)).GUID); !bytes.Equal(got, body) {
				t.Errorf("body %d of %d bytes came back different", i, len(body))
			}
			if _, err := s.Body(places[i], backend.GUID{99}); !errors.Is(err, ErrDamaged) {
				t.Errorf("body %d under another guid: %v", i, err)
			}
		}
	}
	check(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, fs, Options{})
	check(s)
	if s.Close() != nil {
		t.Fatal("close")
	}
	n := 0
	for _, seg := range []string{"seg/00000001.seg", "seg/00000002.seg"} {
		f, err := fs.Open(seg)
		if err != nil {
			t.Fatal(err)
		}
		st, _ := f.Stat()
		end, err := Scan(f, st.Size(), func(i Info, p Place) error {
			if want := info(i.GUID[0]); i.User != want.User || i.Mailbox != want.Mailbox ||
				!i.InternalDate.Equal(want.InternalDate) || strings.Join(i.Flags, " ") != `\Seen x` {
				t.Errorf("info %+v", i)
			}
			n++
			return nil
		})
		if err != nil || end != st.Size() {
			t.Errorf("scan of %s: ends at %d of %d, %v", seg, end, st.Size(), err)
		}
		f.Close()
	}
	if n != len(bodies) {
		t.Errorf("the scan found %d records, want %d", n, len(bodies))
	}
}

func TestReadAtAnywhere(t *testing.T) {
	s := open(t, vfs.NewMem(), Options{})
	defer s.Close()
	body := content(9, 3*FrameSize+77)
	p, err := s.Append(0, info(1), bytes.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Body(p, info(1).GUID)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		off := r.IntN(len(body) + 10)
		buf := make([]byte, r.IntN(FrameSize+10))
		n, err := b.ReadAt(buf, int64(off))
		want := body[min(off, len(body)):min(off+len(buf), len(body))]
		if !bytes.Equal(buf[:n], want) || (n < len(buf)) != (err == io.EOF) || err != nil && err != io.EOF {
			t.Fatalf("ReadAt(%d, %d) = %d, %v, want %d", len(buf), off, n, err, len(want))
		}
	}
}

// TestSealAndRemove fills segments, seals them, and removes those that nobody
// pins.
func TestSealAndRemove(t *testing.T) {
	fs := vfs.NewMem()
	s := open(t, fs, Options{Writers: 1, Limit: 10_000, OpenFiles: 2})
	var places []Place
	random := make([]byte, 3000)
	rand.NewChaCha8([32]byte{1}).Read(random)
	for i := range 20 {
		p, err := s.Append(0, info(byte(i)), bytes.NewReader(random), 3000)
		if err != nil {
			t.Fatal(err)
		}
		places = append(places, p)
	}
	if got := s.Sealed(); len(got) != 0 {
		t.Fatalf("sealed %v while all is pinned", got)
	}
	if err := s.Remove(1); err == nil {
		t.Fatal("removed a pinned segment")
	}
	open1, err := s.Body(places[0], info(0).GUID)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range places {
		s.Unpin(p)
	}
	sealed := s.Sealed()
	if len(sealed) != 4 {
		t.Fatalf("sealed %v, want 4 of 5", sealed)
	}
	for _, id := range sealed {
		if err := s.Remove(id); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := io.ReadAll(io.NewSectionReader(open1, 0, 3000)); err != nil || !bytes.Equal(got, random) {
		t.Errorf("an open body of a removed segment: %v", err)
	}
	open1.Close()
	if _, err := s.Body(places[0], info(0).GUID); err == nil {
		t.Error("a removed segment can be opened")
	}
	s.Close()
	s = open(t, fs, Options{Writers: 1, Limit: 10_000})
	defer s.Close()
	if got := read(t, s, places[19], info(19).GUID); !bytes.Equal(got, random) {
		t.Error("the last body is gone")
	}
	p, err := s.Append(0, info(1), bytes.NewReader(random), 3000)
	if err != nil || p.Segment < 5 {
		t.Errorf("segment %d used again, %v", p.Segment, err)
	}
}

// syncs counts.
type countingFS struct {
	vfs.FS
	mu    sync.Mutex
	syncs int
	fail  error
}

type countingFile struct {
	vfs.File
	fs *countingFS
}

func (c *countingFS) OpenReadWrite(name string, cat vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := c.FS.OpenReadWrite(name, cat, o...)
	return &countingFile{f, c}, err
}

func (f *countingFile) SyncData() error {
	f.fs.mu.Lock()
	f.fs.syncs++
	err := f.fs.fail
	f.fs.mu.Unlock()
	if err != nil {
		return err
	}
	time.Sleep(200 * time.Microsecond) // a disk takes its time: that is what groups are for
	return f.File.SyncData()
}

func TestGroupCommit(t *testing.T) {
	fs := &countingFS{FS: vfs.NewMem()}
	s := open(t, fs, Options{Writers: 1})
	defer s.Close()
	const writers, each = 16, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				body := content(uint64(w*100+i), 500)
				g := info(byte(w))
				p, err := s.Append(0, g, bytes.NewReader(body), 500)
				if err != nil {
					t.Error(err)
					return
				}
				if got := read(t, s, p, g.GUID); !bytes.Equal(got, body) {
					t.Error("different")
				}
			}
		})
	}
	wg.Wait()
	if fs.syncs > writers*each/2 {
		t.Errorf("%d syncs for %d appends", fs.syncs, writers*each)
	}
}

// TestSyncErrorIsTheEnd: after a failed sync the writer calls Fatal and never
// syncs that file again.
func TestSyncErrorIsTheEnd(t *testing.T) {
	fs := &countingFS{FS: vfs.NewMem()}
	var fatal []error
	s := open(t, fs, Options{Writers: 1, Fatal: func(err error) { fatal = append(fatal, err) }})
	boom := errors.New("boom")
	fs.fail = boom
	if _, err := s.Append(0, info(1), strings.NewReader("x"), 1); !errors.Is(err, boom) {
		t.Errorf("append: %v", err)
	}
	if len(fatal) != 1 || fatal[0] != boom {
		t.Errorf("fatal %v", fatal)
	}
	fs.fail = nil
	if _, err := s.Append(0, info(1), strings.NewReader("x"), 1); !errors.Is(err, boom) {
		t.Errorf("append after the failure: %v", err)
	}
	if fs.syncs != 1 {
		t.Errorf("%d syncs, want 1", fs.syncs)
	}
	s.Close()
}

// build writes three records into one segment and returns its bytes.
func build(t testing.TB) ([]byte, []Place) {
	fs := vfs.NewMem()
	s, err := Open("seg", Options{FS: fs, Writers: 1})
	if err != nil {
		t.Fatal(err)
	}
	var places []Place
	for i, size := range []int{700, 2*FrameSize + 9, 40} {
		p, err := s.Append(0, info(byte(i)), bytes.NewReader(content(uint64(i), size)), int64(size))
		if err != nil {
			t.Fatal(err)
		}
		places = append(places, p)
	}
	s.Close()
	data, err := fs.UnsafeGetFileDataBuffer("seg/00000001.seg")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(data), places
}

func put(t testing.TB, data []byte) *vfs.MemFS {
	fs := vfs.NewMem()
	if err := fs.MkdirAll("seg", 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := fs.Create("seg/00000001.seg", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	f.Write(bytes.Clone(data))
	f.Close()
	return fs
}

// TestTornTail cuts the segment at many places: what is whole stays readable,
// and new records go behind it.
func TestTornTail(t *testing.T) {
	data, places := build(t)
	var cuts []int
	for _, p := range places {
		for _, d := range []int64{0, 1, headLen - 1, headLen, headLen + 20, p.Length / 2, p.Length - 1} {
			cuts = append(cuts, int(p.Offset+d))
		}
	}
	for _, cut := range append(cuts, len(data)) {
		for _, rubbish := range []int{0, 100} {
			fs := put(t, append(data[:cut:cut], make([]byte, rubbish)...))
			s := open(t, fs, Options{Writers: 1})
			end := int64(0)
			for i, p := range places {
				if p.Offset+p.Length <= int64(cut) {
					end = p.Offset + p.Length
					if got := read(t, s, p, info(byte(i)).GUID); int64(len(got)) != p.Size {
						t.Fatalf("cut at %d: record %d", cut, i)
					}
				}
			}
			p, err := s.Append(0, info(7), strings.NewReader("hello"), 5)
			if err != nil || p.Offset != end {
				t.Fatalf("cut at %d: new record at %d, want %d, %v", cut, p.Offset, end, err)
			}
			s.Close()
			s = open(t, fs, Options{Writers: 1})
			if got := read(t, s, p, info(7).GUID); string(got) != "hello" {
				t.Fatalf("cut at %d: new record reads %q", cut, got)
			}
			s.Close()
		}
	}
}

// TestFlippedByte flips every seventh byte, one at a time: reading gives an
// error or the right bytes, never others.
func TestFlippedByte(t *testing.T) {
	data, places := build(t)
	fs := put(t, data)
	s := open(t, fs, Options{Writers: 1})
	defer s.Close()
	live, err := fs.UnsafeGetFileDataBuffer("seg/00000001.seg")
	if err != nil {
		t.Fatal(err)
	}
	for k, p := range places {
		want := content(uint64(k), int(p.Size))
		step := max(7, int(p.Length)/100)
		for at := int(p.Offset); at < int(p.Offset+p.Length); at += step {
			live[at] ^= 0x10
			b, err := s.Body(p, info(byte(k)).GUID)
			if err == nil {
				var got []byte
				got, err = io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
				if err == nil && !bytes.Equal(got, want) {
					t.Fatalf("byte %d flipped: wrong bytes read", at)
				}
				if err == nil {
					t.Fatalf("byte %d flipped: not noticed", at)
				}
				b.Close()
			}
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("byte %d flipped: %v", at, err)
			}
			live[at] ^= 0x10
		}
	}
}

// FuzzSegment opens whatever is in a segment file and reads what the scan
// finds. Nothing may panic; what the scan calls whole must be readable.
func FuzzSegment(f *testing.F) {
	data, places := build(f)
	f.Add(data[:places[0].Length])
	f.Add(data[places[2].Offset:])
	f.Add(append(bytes.Clone(data[places[2].Offset:]), sealMark(places[2].Length)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		fs := put(t, data)
		s, err := Open("seg", Options{FS: fs, Writers: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		_, err = Scan(bytes.NewReader(data), int64(len(data)), func(i Info, p Place) error {
			p.Segment = 1
			b, err := s.Body(p, i.GUID)
			if err != nil {
				return err
			}
			defer b.Close()
			_, err = io.Copy(io.Discard, io.NewSectionReader(b, 0, b.Size()))
			if errors.Is(err, ErrDamaged) { // checksums right, but no zstd: only a fuzzer writes that
				return nil
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
