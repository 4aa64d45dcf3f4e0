package spool

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"testing/iotest"
)

func TestSpool(t *testing.T) {
	for _, size := range []int{0, 1, 9, 10, 11, 1000} {
		dir := t.TempDir()
		s := New(Options{Memory: 10, Limit: 1000, Dir: dir})
		want := bytes.Repeat([]byte("abcdefg"), 200)[:size]
		if _, err := io.CopyBuffer(struct{ io.Writer }{s}, iotest.OneByteReader(bytes.NewReader(want)), make([]byte, 7)); err != nil {
			t.Fatal(err)
		}
		if s.Size() != int64(size) {
			t.Errorf("size %d, want %d", s.Size(), size)
		}
		for range 2 {
			if err := iotest.TestReader(s.Reader(), want); err != nil {
				t.Errorf("%d bytes: %v", size, err)
			}
		}
		if n, err := s.ReadAt(make([]byte, 5), int64(size)); n != 0 || err != io.EOF {
			t.Errorf("behind the end: got %d, %v", n, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("files with names: %v, %v", left, err)
		}
		for range 2 {
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
	}
}

func TestLimit(t *testing.T) {
	s := New(Options{Limit: 5})
	defer s.Close()
	if _, err := s.Write([]byte("12345")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("6")); !errors.Is(err, ErrTooBig) {
		t.Errorf("got %v", err)
	}
}

func TestNoRoom(t *testing.T) {
	s := New(Options{Memory: 1, Dir: "/nonexistent"})
	defer s.Close()
	if _, err := s.Write([]byte("12")); err == nil || errors.Is(err, ErrTooBig) {
		t.Errorf("got %v", err)
	}
}
