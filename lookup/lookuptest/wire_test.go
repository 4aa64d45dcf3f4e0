package lookuptest_test

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"switchyard/lookup/lookuptest"
)

// echo is a server that says what it hears.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

// say sends text over the wire and returns what came back until the connection
// ended or wait passed.
func say(t *testing.T, w *lookuptest.Wire, text string, wait time.Duration) (string, error) {
	t.Helper()
	c, err := net.Dial("tcp", w.Addr())
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := c.Write([]byte(text)); err != nil {
		return "", err
	}
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return "", err
	}
	got := make([]byte, len(text))
	n, err := io.ReadFull(c, got)
	return string(got[:n]), err
}

func TestWire(t *testing.T) {
	w := lookuptest.NewWire(t, "tcp", echo(t))
	const text = "the quick brown fox"
	plain := func(what string) {
		t.Helper()
		if got, err := say(t, w, text, 10*time.Second); got != text || err != nil {
			t.Errorf("%s: got %q, %v", what, got, err)
		}
	}
	plain("plain")
	w.Stop()
	if got, err := say(t, w, text, 10*time.Second); err == nil {
		t.Errorf("stopped: got %q", got)
	}
	w.Mend(t)
	plain("mended after a stop")
	w.Hang()
	if got, err := say(t, w, text, 50*time.Millisecond); got != "" || err == nil {
		t.Errorf("hanging: got %q, %v", got, err)
	}
	w.Mend(t)
	plain("mended after a hang")
	w.Truncate(5)
	if got, err := say(t, w, text, 10*time.Second); got != text[:5] || err == nil {
		t.Errorf("truncated: got %q, %v", got, err)
	}
	w.Garble(4)
	got, err := say(t, w, text, 10*time.Second)
	if err != nil || len(got) != len(text) || got == text || !bytes.Equal([]byte(got[:3]), []byte(text[:3])) {
		t.Errorf("garbled: got %q, %v", got, err)
	}
	w.Slow(50 * time.Millisecond)
	start := time.Now()
	if got, err := say(t, w, text, 10*time.Second); got != text || err != nil || time.Since(start) < 50*time.Millisecond {
		t.Errorf("slow: got %q, %v after %v", got, err, time.Since(start))
	}
	w.Mend(t)
	plain("mended in the end")
}
