package pop

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"switchyard/backend"
	"switchyard/lookup"
)

// FuzzBeforeLogin: whatever a stranger sends, the session ends by itself once
// the stranger does, answers only +OK, -ERR, + and listings, and nobody is
// logged in without the password.
func FuzzBeforeLogin(f *testing.F) {
	for _, s := range []string{
		"CAPA\r\nQUIT\r\n", "USER anna\r\nPASS x\r\n", "AUTH PLAIN\r\n*\r\n", "AUTH LOGIN AAAA\r\n=\r\n",
		"STLS\r\n\x16\x03\x01", "XCLIENT ADDR=1.2.3.4\r\n", "\n\n\n", "\x00\xff\r\n", "AUTH PLAIN =\r\n",
		"USER anna\r\nPASS sesame street\r\nSTAT\r\n",
		strings.Repeat("A", 17000) + "\r\n",
	} {
		f.Add([]byte(s))
	}
	fx := newFixture(f, Options{AllowClear: true, LoginTime: 5 * time.Second})
	f.Fuzz(func(t *testing.T, in []byte) {
		front, back := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			fx.srv.Serve(context.Background(), back)
		}()
		go func() {
			front.SetWriteDeadline(time.Now().Add(2 * time.Second))
			front.Write(in)
			front.Close()
		}()
		out, _ := io.ReadAll(front)
		<-done
		if !bytes.HasPrefix(out, []byte("+OK")) && len(out) > 0 {
			t.Fatalf("greeting: %q", out)
		}
		if bytes.Contains(out, []byte(" messages\r\n")) && !bytes.Contains(in, []byte("street")) {
			t.Fatalf("logged in by %q", in)
		}
		if len(fx.srv.inUse) != 0 {
			t.Fatal("the maildrop is still in use")
		}
	})
}

// FuzzDots: a multi-line response gives back the message, in exactly the
// octets that were announced, however it is cut into writes.
func FuzzDots(f *testing.F) {
	f.Add([]byte(".\r\n..\n\r.\r\n\n"), uint8(1), uint8(1))
	f.Add([]byte("a: b\n\nx\ny\n"), uint8(3), uint8(1))
	f.Add([]byte("\r\n\r"), uint8(2), uint8(0))
	f.Fuzz(func(t *testing.T, text []byte, step, lines uint8) {
		n := max(int(step), 1)
		var out bytes.Buffer
		d := newDots(&out)
		for part := text; len(part) > 0; {
			k := min(n, len(part))
			d.Write(part[:k])
			part = part[k:]
		}
		d.end()
		var plain bytes.Buffer
		rest := out.String()
		for {
			line, after, found := strings.Cut(rest, "\r\n")
			if !found {
				t.Fatalf("no end in %q", out.String())
			}
			if line == "." {
				if after != "" {
					t.Fatalf("an end inside: %q", out.String())
				}
				break
			}
			plain.WriteString(strings.TrimPrefix(line, ".") + "\r\n")
			rest = after
		}
		want := strings.ReplaceAll(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n", "\r\n")
		if want != "" && !strings.HasSuffix(want, "\n") {
			want += "\r\n"
		}
		if plain.String() != want {
			t.Fatalf("got %q, want %q", plain.String(), want)
		}
		growth, err := growthOf(io.LimitReader(bytes.NewReader(text), 1<<20), make([]byte, n))
		if err != nil || int64(len(text))+growth != int64(plain.Len()) {
			t.Fatalf("announced %d, sent %d: %q", int64(len(text))+growth, plain.Len(), text)
		}
		checkTop(t, text, n, int64(lines))
	})
}

// checkTop compares topReader with a plain reading of RFC 1939 §7.
func checkTop(t *testing.T, text []byte, step int, lines int64) {
	t.Helper()
	got, err := io.ReadAll(newTop(&stepReader{text, step}, lines))
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	inBody := false
	for _, line := range bytes.SplitAfter(text, []byte("\n")) {
		if inBody && lines == 0 {
			break
		}
		want = append(want, line...)
		if inBody {
			lines--
		}
		if len(line) > 0 && line[len(line)-1] == '\n' && len(bytes.Trim(line, "\r\n")) == 0 {
			inBody = true
		}
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("top of %q: got %q, want %q", text, got, want)
	}
}

type stepReader struct {
	rest []byte
	step int
}

func (r *stepReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), r.step)], r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func TestLengthsForget(t *testing.T) {
	l := newLengths()
	guid := func(i int) backend.GUID { return backend.GUID{byte(i), byte(i >> 8), byte(i >> 16)} }
	for i := range 3 * maxYoung {
		l.put(guid(i), int64(i))
		l.get(guid(0))
	}
	if _, ok := l.get(guid(0)); !ok {
		t.Error("what is used often was forgotten")
	}
	if _, ok := l.get(guid(1)); ok {
		t.Error("nothing was forgotten")
	}
	if n := len(l.young) + len(l.old); n > 2*maxYoung {
		t.Errorf("%d entries", n)
	}
}

var _ lookup.Directory = (*directory)(nil)
