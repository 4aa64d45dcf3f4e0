// Package spool keeps a message on its way through: in memory while it is
// small, in a file that has no name once it grows.
package spool

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrTooBig: the message passed the spool's limit.
var ErrTooBig = errors.New("message is bigger than the limit")

// Options for New. The zero value works.
type Options struct {
	Memory int    // bytes kept in memory before a file is used; zero: 256 KiB
	Limit  int64  // most bytes taken, then ErrTooBig; zero: no limit
	Dir    string // where the file is made; "": the system's temporary directory
}

// Spool takes a message by Write and gives it back by ReadAt, as often as
// wanted. One goroutine writes; when writing is over, any number may read.
type Spool struct {
	o    Options
	mem  []byte
	file *os.File
	size int64
}

// New makes an empty spool. The caller closes it.
func New(o Options) *Spool {
	if o.Memory == 0 {
		o.Memory = 256 << 10
	}
	return &Spool{o: o}
}

// Write appends to the spool. Errors: ErrTooBig, and the disk's.
func (s *Spool) Write(p []byte) (int, error) {
	if s.o.Limit > 0 && s.size+int64(len(p)) > s.o.Limit {
		return 0, ErrTooBig
	}
	if s.file == nil && len(s.mem)+len(p) > s.o.Memory {
		if err := s.spill(); err != nil {
			return 0, err
		}
	}
	if s.file == nil {
		s.mem = append(s.mem, p...)
		s.size += int64(len(p))
		return len(p), nil
	}
	n, err := s.file.Write(p)
	s.size += int64(n)
	return n, err
}

// spill moves what is in memory into a file, whose name goes at once so that
// nothing is left behind however the process ends.
func (s *Spool) spill() error {
	f, err := os.CreateTemp(s.o.Dir, "spool-*")
	if err != nil {
		return fmt.Errorf("spool a message: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return fmt.Errorf("spool a message: %w", err)
	}
	if _, err := f.Write(s.mem); err != nil {
		f.Close()
		return fmt.Errorf("spool a message: %w", err)
	}
	s.file, s.mem = f, nil
	return nil
}

// Size returns the bytes written so far.
func (s *Spool) Size() int64 { return s.size }

// ReadAt implements io.ReaderAt.
func (s *Spool) ReadAt(p []byte, off int64) (int, error) {
	if s.file != nil {
		return s.file.ReadAt(p, off)
	}
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if off >= int64(len(s.mem)) {
		return 0, io.EOF
	}
	n := copy(p, s.mem[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Reader reads the whole spool from its start.
func (s *Spool) Reader() io.Reader { return io.NewSectionReader(s, 0, s.size) }

// Close frees the memory or the file. It may be called more than once.
func (s *Spool) Close() error {
	s.mem, s.size = nil, 0
	if s.file == nil {
		return nil
	}
	f := s.file
	s.file = nil
	return f.Close()
}
