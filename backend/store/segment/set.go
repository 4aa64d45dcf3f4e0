// Package segment keeps message bodies in append-only files.
//
// A body is written once, behind the last one of a segment, as a record that
// describes and checks itself. Append returns when the record is on disk; many
// concurrent appends share one sync. A segment that has reached its size is
// sealed and never changes again; it is deleted whole once nothing in it is
// wanted, which is the owner's decision (Remove).
//
// A sync that fails ends the process (Options.Fatal): after it nobody knows
// what is on the disk, and trying again would only hide that.
//
// At start the unsealed segments are read from their beginning; what is behind
// the last whole record was never acknowledged, and new records go over it.
package segment

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/zap"
)

// Options shape a Set. The zero value works.
type Options struct {
	FS        vfs.FS // nil: the disk
	Logger    *zap.Logger
	Writers   int   // segments written to at the same time; 0: 2
	Limit     int64 // a segment is sealed once it is this long; 0: 256 MB
	OpenFiles int   // sealed segments kept open for reading; 0: 128

	// Fatal ends the process after a sync has failed. Nil: the logger's Fatal,
	// which exits.
	Fatal func(error)
}

func (o *Options) defaults() {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Writers <= 0 {
		o.Writers = 2
	}
	if o.Limit <= 0 {
		o.Limit = 256 << 20
	}
	if o.OpenFiles <= 0 {
		o.OpenFiles = 128
	}
	if o.Fatal == nil {
		logger := o.Logger
		o.Fatal = func(err error) { logger.Fatal("cannot sync a body segment", zap.Error(err)) }
	}
}

// Place is where a record lies.
type Place struct {
	Segment uint32
	Offset  int64
	Length  int64 // of the record
	Size    int64 // of the body
}

// Set is a directory of segments. All methods are safe for concurrent use.
type Set struct {
	dir  string
	opts Options
	fs   vfs.FS
	enc  *zstd.Encoder // EncodeAll and DecodeAll are safe for concurrent use
	dec  *zstd.Decoder

	writers []*writer
	copier  *writer // Copy's
	copying sync.Mutex

	mu     sync.Mutex
	next   uint32           // id of the next segment
	sealed map[uint32]bool  // that are on disk; false: still written to
	pins   map[uint32]int   // records written that nobody refers to yet
	sizes  map[uint32]int64 // of sealed segments

	files fileCache
}

// ErrClosed says that the set was closed.
var ErrClosed = errors.New("segments are closed")

// Open opens the segments of a directory, which it makes when it is missing.
func Open(dir string, opts Options) (*Set, error) {
	opts.defaults()
	s := &Set{
		dir: dir, opts: opts, fs: opts.FS, next: 1,
		sealed: make(map[uint32]bool), pins: make(map[uint32]int), sizes: make(map[uint32]int64),
	}
	s.files.init(s)
	var err error
	if s.enc, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
		zstd.WithLowerEncoderMem(true), zstd.WithAllLitEntropyCompression(true)); err != nil {
		return nil, err
	}
	if s.dec, err = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(FrameSize), zstd.WithDecoderConcurrency(0)); err != nil {
		return nil, err
	}
	if err := s.fs.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	return s, nil
}

// load lists the directory, finds the end of the unsealed segments and gives
// them to the writers.
func (s *Set) load() error {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return err
	}
	slices.Sort(names)
	var open []*file
	for _, name := range names {
		id, ok := parseName(name)
		if !ok {
			continue
		}
		s.next = max(s.next, id+1)
		f, err := s.openForWriting(id)
		if err != nil {
			return err
		}
		if f == nil { // sealed
			continue
		}
		open = append(open, f)
	}
	for ; len(open) > s.opts.Writers; open = open[1:] { // fewer writers than before
		newWriter(s, open[0]).seal()
	}
	s.copier = newWriter(s, nil)
	for i := range s.opts.Writers {
		var f *file
		if i < len(open) {
			f = open[i]
		}
		s.writers = append(s.writers, newWriter(s, f))
	}
	return nil
}

// openForWriting opens a segment and scans it, unless it is sealed.
func (s *Set) openForWriting(id uint32) (*file, error) {
	f, err := s.fs.OpenReadWrite(s.path(id), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	size := info.Size()
	if isSealed(f, size) {
		s.sealed[id], s.sizes[id] = true, size
		return nil, f.Close()
	}
	end, err := Scan(f, size, nil)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("scan segment %d: %w", id, err)
	}
	if end < size {
		s.opts.Logger.Warn("segment ends in bytes that were never acknowledged; they are written over",
			zap.Uint32("segment", id), zap.Int64("end", end), zap.Int64("bytes", size-end))
	}
	s.sealed[id] = false
	return &file{id: id, f: f, end: end}, nil
}

func (s *Set) path(id uint32) string { return s.fs.PathJoin(s.dir, fmt.Sprintf("%08d.seg", id)) }

func parseName(name string) (uint32, bool) {
	digits, ok := strings.CutSuffix(name, ".seg")
	id, err := strconv.ParseUint(digits, 10, 32)
	return uint32(id), ok && err == nil
}

// create makes a new segment, whose name is durable when it returns.
func (s *Set) create() (*file, error) {
	s.mu.Lock()
	id := s.next
	s.next++
	s.mu.Unlock()
	f, err := s.fs.OpenReadWrite(s.path(id), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	if err := s.syncDir(); err != nil {
		f.Close()
		s.opts.Fatal(err)
		return nil, err
	}
	s.mu.Lock()
	s.sealed[id] = false
	s.mu.Unlock()
	return &file{id: id, f: f}, nil
}

func (s *Set) syncDir() error {
	d, err := s.fs.OpenDir(s.dir)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		d.Close()
		return err
	}
	return d.Close()
}

// Unpin says that the record at a place is referred to durably now, or never
// will be. Every successful Append needs one: until then its segment stays.
func (s *Set) Unpin(p Place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pins[p.Segment]--; s.pins[p.Segment] <= 0 {
		delete(s.pins, p.Segment)
	}
}

// Pin says that the record at a place will be referred to later: it needs an
// Unpin, as an Append does.
func (s *Set) Pin(p Place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pins[p.Segment]++
}

// Sealed returns the segments that are sealed and have no pinned record: those
// that Remove would remove.
func (s *Set) Sealed() []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []uint32
	for id, sealed := range s.sealed {
		if sealed && s.pins[id] == 0 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Remove deletes a sealed segment. Bodies that are open stay readable.
func (s *Set) Remove(id uint32) error {
	s.mu.Lock()
	if !s.sealed[id] || s.pins[id] > 0 {
		s.mu.Unlock()
		return fmt.Errorf("segment %d is in use", id)
	}
	delete(s.sealed, id)
	delete(s.sizes, id)
	s.mu.Unlock()
	s.files.drop(id)
	if err := s.fs.Remove(s.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Close waits for the appends under way and closes the files. Bodies that are
// open stay readable.
func (s *Set) Close() error {
	var errs []error
	for _, w := range s.writers {
		errs = append(errs, w.close())
	}
	errs = append(errs, s.copier.close())
	s.files.close()
	return errors.Join(append(errs, s.enc.Close())...)
}
