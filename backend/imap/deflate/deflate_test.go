package deflate

import (
	"bufio"
	"bytes"
	std "compress/flate"
	"encoding/json"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"switchyard/internal/wire"

	"github.com/klauspost/compress/flate"
)

// pair is a layer over loopback, and the other end as it is on the wire.
func pair(t testing.TB) (*Conn, net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	below := wire.NewConn(nc)
	below.SetIdle(10 * time.Second)
	peer.SetDeadline(time.Now().Add(10 * time.Second))
	t.Cleanup(func() { below.Close(); peer.Close() })
	return Over(below), peer
}

// TestFlush holds that what is flushed can be read at once, by a strict
// decompressor, whatever the sizes of the writes.
func TestFlush(t *testing.T) {
	c, peer := pair(t)
	r := flate.NewReader(peer)
	var sent int64
	for i, n := range []int{1, 3, 4000, 5000, 70000, 10, 8192, 8193, 200000, 0, 7} {
		text := strings.Repeat("abcdefghij\n", n/11+1)[:n]
		if i%2 == 1 {
			text = strings.Repeat("\x00\xff", n/2+1)[:n]
		}
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- c.Flush() }()
		got := make([]byte, n)
		if _, err := io.ReadFull(r, got); err != nil || string(got) != text {
			t.Fatalf("write %d of %d bytes came back different: %v", i, n, err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		sent += int64(n)
	}
	if wrote := c.below.BytesWritten(); wrote > sent/10 {
		t.Errorf("%d bytes took %d on the wire", sent, wrote)
	}
}

// partialFlush ends a block as zlib's Z_PARTIAL_FLUSH does, by an empty block
// with fixed codes in place of an empty stored one: the end of one line is
// known only with the first bits of the next.
func TestPartialFlush(t *testing.T) {
	c, peer := pair(t)
	// "hi\r\n" in one block of fixed codes, and an empty block behind it,
	// without the bits that would fill the last byte.
	var bits bitWriter
	for range 3 {
		bits.fixed("hi\r\n")
		bits.fixed("")
		if _, err := peer.Write(bits.whole()); err != nil {
			t.Fatal(err)
		}
		line, err := c.ReadLine(100)
		if err != nil || string(line) != "hi" {
			t.Fatalf("got %q, %v", line, err)
		}
	}
}

// TestPartialFlushOfZlib plays what zlib sent for batches of commands, each ended
// with Z_PARTIAL_FLUSH: blocks with their own codes, whose last byte is not
// complete. Each batch must be there before the next is sent.
func TestPartialFlushOfZlib(t *testing.T) {
	data, err := os.ReadFile("testdata/partial.json")
	if err != nil {
		t.Fatal(err)
	}
	var batches []struct {
		Sent  []byte
		Lines []string
	}
	if err := json.Unmarshal(data, &batches); err != nil {
		t.Fatal(err)
	}
	c, peer := pair(t)
	for i, b := range batches {
		if _, err := peer.Write(b.Sent); err != nil {
			t.Fatal(err)
		}
		for j, want := range b.Lines {
			if got, err := c.ReadLine(1000); err != nil || string(got) != want {
				t.Fatalf("batch %d, line %d: got %q, %v; want %q", i, j, got, err, want)
			}
		}
	}
}

// TestEveryByteCounts cuts streams everywhere, and holds that what came is a
// part of the whole, that it never shrinks, and that all of it is there at the
// end, though the end of the stream is not.
func TestEveryByteCounts(t *testing.T) {
	text := []byte(strings.Repeat("the quick brown fox, ", 40) + strings.Repeat("z", 700))
	for i := range text[:600] {
		text[i] += byte(i * i % 7)
	}
	for level := range 10 {
		var b bytes.Buffer
		w, err := std.NewWriter(&b, level)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(text)
		w.Flush()
		before := 0
		for n := range b.Len() + 1 {
			got, err := io.ReadAll(newInflater(bufio.NewReader(bytes.NewReader(b.Bytes()[:n]))))
			if err != io.ErrUnexpectedEOF || !bytes.HasPrefix(text, got) || len(got) < before {
				t.Fatalf("level %d, %d bytes: got %d bytes, %v", level, n, len(got), err)
			}
			before = len(got)
		}
		if before != len(text) {
			t.Errorf("level %d: %d bytes of %d", level, before, len(text))
		}
	}
}

// bitWriter writes deflate's bits.
type bitWriter struct {
	out  []byte
	bits uint
	n    int
}

func (w *bitWriter) add(v uint, n int) {
	w.bits |= v << w.n
	for w.n += n; w.n >= 8; w.n -= 8 {
		w.out = append(w.out, byte(w.bits))
		w.bits >>= 8
	}
}

// fixed writes a block of literals below 144 with the fixed codes
// (RFC 1951 §3.2.6), which are sent high bit first.
func (w *bitWriter) fixed(text string) {
	w.add(0, 1)
	w.add(1, 2)
	for _, c := range []byte(text) {
		code := uint(c) + 0x30
		for i := 7; i >= 0; i-- {
			w.add(code>>i&1, 1)
		}
	}
	w.add(0, 7)
}

// whole takes the bytes that are complete.
func (w *bitWriter) whole() []byte {
	out := w.out
	w.out = nil
	return out
}

// TestDamage holds that data that is not compressed ends the connection with
// its own error, and that the other direction goes on.
func TestDamage(t *testing.T) {
	c, peer := pair(t)
	if _, err := io.WriteString(peer, "a NOOP\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := c.ReadLine(100); err != ErrDamaged {
		t.Fatalf("got %q, %v", line, err)
	}
	if _, err := io.WriteString(c, "bye\r\n"); err != nil || c.Flush() != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(flate.NewReader(peer), got); err != nil || string(got) != "bye\r\n" {
		t.Fatalf("got %q, %v", got, err)
	}
}

// TestBomb holds that a little compressed data that means a lot is read in
// pieces: a line has its bound.
func TestBomb(t *testing.T) {
	c, peer := pair(t)
	var bomb bytes.Buffer
	w, err := flate.NewWriter(&bomb, 9)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(make([]byte, 2<<20))
	w.Close()
	go peer.Write(bomb.Bytes())
	if _, err := c.ReadLine(1 << 16); err != wire.ErrLineTooLong {
		t.Fatal(err)
	}
	if read := c.below.BytesRead(); read > 64<<10 {
		t.Errorf("read %d bytes", read)
	}
}

// FuzzRead reads anything, and holds that what comes out is what the standard
// library makes of it, and that the two agree on what is damaged.
func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, 6)
	if err != nil {
		f.Fatal(err)
	}
	io.WriteString(w, "a NOOP\r\n")
	w.Flush()
	f.Add(b.Bytes())
	f.Add([]byte("a NOOP\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		const most = 1 << 20
		got, err := io.ReadAll(io.LimitReader(newInflater(bufio.NewReader(bytes.NewReader(data))), most))
		want, wantErr := io.ReadAll(io.LimitReader(std.NewReader(bytes.NewReader(data)), most))
		n := min(len(got), len(want))
		if !bytes.Equal(got[:n], want[:n]) || n < len(want) {
			t.Fatalf("got %d bytes, want %d", len(got), len(want))
		}
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("got %v, want %v", err, wantErr)
		}
	})
}
