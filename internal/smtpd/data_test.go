package smtpd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"switchyard/internal/server"
	"switchyard/internal/wire"
)

const envelope = `
	S: 220 *
	C: HELO x
	C: MAIL FROM:<a@x.test>
	C: RCPT TO:<b@x.test>
	S: 250 *
	S: 250 *
	S: 250 *
`

// What looks like the end of a message to somebody else is not its end, and
// refuses it (SMTP smuggling, CVE-2023-51764 and its family).
func TestSmuggling(t *testing.T) {
	const inner = "MAIL FROM:<ceo@bank.test>\r\nRCPT TO:<victim@x.test>\r\nDATA\r\nSubject: pay\r\n"
	for _, end := range []string{
		"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\r\r\n.\r\r\n", "\n\r\n.\n", "\r\n.\r\r\n", "\r\n\x00.\r\n", "\n.\r", ".\r\n",
	} {
		t.Run(fmt.Sprintf("%q", end), func(t *testing.T) {
			f := &fake{}
			p := start(t, Options{}, plain(f))
			p.run(envelope + "C: DATA\nS: 354 *")
			p.send("a" + end + inner + "\r\n.\r\n")
			if end == "\r\n\x00.\r\n" || end == ".\r\n" {
				p.run("S: 250 2.0.0 taken")
			} else {
				p.run("S: 554 5.6.0 bare CR or LF *")
			}
			p.run("C: NOOP\nS: 250 2.0.0 ok\nC: QUIT\nS: 221 *")
			if err := p.result(); err != nil {
				t.Error(err)
			}
			for _, line := range f.log {
				if strings.Contains(line, "ceo") {
					t.Errorf("smuggled: %s", line)
				}
			}
		})
	}
}

func TestOversize(t *testing.T) {
	f := &fake{}
	p := start(t, Options{MaxSize: 1000}, plain(f))
	p.run(envelope + "C: DATA\nS: 354 *")
	p.send(strings.Repeat(strings.Repeat("x", 98)+"\r\n", 10) + ".\r\n")
	p.run("S: 250 2.0.0 taken\nC: MAIL FROM:<a@x.test>\nC: RCPT TO:<b@x.test>\nC: DATA\nS: 250 *\nS: 250 *\nS: 354 *")
	p.send(strings.Repeat(strings.Repeat("x", 98)+"\r\n", 10) + "y\r\n.\r\n")
	p.run(`
		S: 552 5.3.4 *
		C: MAIL FROM:<a@x.test>
		C: RCPT TO:<b@x.test>
		C: BDAT 2000
		S: 250 *
		S: 250 *`)
	p.send(strings.Repeat("QUIT\r\n", 333) + "\r\n")
	p.run(`
		S: 552 5.3.4 *
		C: BDAT 2000 LAST`)
	p.send(strings.Repeat("QUIT\r\n", 333) + "\r\n")
	p.run(`
		S: 503 *
		C: BDAT 99999999999
		S: 552 5.3.4 *`)
	if err := p.end(); !errors.Is(err, ErrChunk) {
		t.Errorf("got %v", err)
	}
	if len(f.bodies) != 1 || len(f.bodies[0]) != 1000 {
		t.Errorf("got %d bodies", len(f.bodies))
	}
}

func TestRefusedMessageThatDoesNotEnd(t *testing.T) {
	p := start(t, Options{MaxSize: 10}, plain(&fake{}))
	p.run(envelope + "C: DATA\nS: 354 *")
	junk := []byte(strings.Repeat("0123456789\r\n", 5000))
	for n := 0; n < 2*maxDrain; n += len(junk) {
		if _, err := p.conn.Write(junk); err != nil {
			break
		}
	}
	if err := p.result(); !errors.Is(err, ErrEndless) {
		t.Errorf("got %v", err)
	}
}

func TestBDAT(t *testing.T) {
	tests := []struct {
		name, script string
		bodies       []string
		err          error
	}{
		{"chunks and a dot", envelope + `
			C: BDAT 5
			C: abc
			C: BDAT 3
			C: .
			C: BDAT 3 last
			C: d
			C: QUIT
			S: 250 2.0.0 5 bytes
			S: 250 2.0.0 3 bytes
			S: 250 2.0.0 taken
			S: 221 *`, []string{"abc\r\n.\r\nd\r\n"}, nil},
		{"abandoned", envelope + `
			C: BDAT 5
			C: abc
			C: RSET
			C: BDAT 3 LAST
			C: d
			C: QUIT
			S: 250 2.0.0 5 bytes
			S: 250 2.0.0 ok
			S: 503 5.5.1 *
			S: 221 *`, nil, nil},
		{"other commands within", envelope + `
			C: BDAT 5
			C: abc
			C: MAIL FROM:<c@x.test>
			C: DATA
			C: BDAT 0 LAST
			S: 250 2.0.0 5 bytes
			S: 503 5.5.1 *
			S: 503 5.5.1 *
			S: 250 2.0.0 taken
			C: QUIT
			S: 221 *`, []string{"abc\r\n"}, nil},
		{"no size", envelope + `
			C: BDAT
			S: 501 5.5.4 *`, nil, ErrChunk},
		{"negative size", envelope + `
			C: BDAT -5
			S: 501 5.5.4 *`, nil, ErrChunk},
		{"bad word", envelope + `
			C: BDAT 5 FIRST
			S: 501 5.5.4 *`, nil, ErrChunk},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := &fake{}
			p := start(t, Options{}, plain(f))
			p.run(test.script)
			if err := p.result(); !errors.Is(err, test.err) {
				t.Errorf("got %v, want %v", err, test.err)
			}
			if strings.Join(f.bodies, "|") != strings.Join(test.bodies, "|") {
				t.Errorf("got bodies %q, want %q", f.bodies, test.bodies)
			}
		})
	}
}

// A session that refuses in the middle of a chunk does not turn the rest of the
// chunk, or the next chunks, into commands.
func TestBDATRefusedEarly(t *testing.T) {
	for _, bare := range []bool{false, true} {
		f := &fake{early: !bare, replies: func(n int) []Reply { return Repeat(NewReply(452, "4.3.1", "disk full"), n) }}
		p := start(t, Options{}, plain(f))
		chunk := "QUIT\r\nQUIT\r\n"
		want := "452 4.3.1 disk full"
		if bare {
			chunk, want = "QUIT\nQUIT\r\n\n", "554 5.6.0 *"
		}
		p.run(envelope)
		p.send("BDAT 12\r\n" + chunk + "BDAT 12\r\n" + chunk + "BDAT 12 LAST\r\n" + chunk + "NOOP\r\n")
		p.run("S: " + want + "\nS: 503 *\nS: 503 *\nS: 250 *")
		p.run("C: MAIL FROM:<a@x.test>\nC: RCPT TO:<b@x.test>\nC: BDAT 12 LAST\nS: 250 *\nS: 250 *")
		p.send(chunk)
		p.run("S: " + want + "\nC: QUIT\nS: 221 *")
		if err := p.result(); err != nil {
			t.Error(err)
		}
	}
}

// A chunk may end between CR and LF, and a message may not end in a CR.
func TestBDATLineEnds(t *testing.T) {
	f := &fake{}
	p := start(t, Options{}, plain(f))
	p.run(envelope)
	p.send("BDAT 2\r\na\rBDAT 3 LAST\r\n\nb\rMAIL FROM:<>\r\nRCPT TO:<b@x.test>\r\nBDAT 2\r\na\rBDAT 2 LAST\r\n\nb")
	p.run("S: 250 2.0.0 2 bytes\nS: 554 5.6.0 *\nS: 250 *\nS: 250 *\nS: 250 2.0.0 2 bytes\nS: 250 2.0.0 taken\nC: QUIT\nS: 221 *")
	if len(f.bodies) != 1 || f.bodies[0] != "a\r\nb" {
		t.Errorf("got %q", f.bodies)
	}
}

// The rest of a body is never run as commands when the wait for it was too long
// (go-smtp issue 196).
func TestTimeoutInData(t *testing.T) {
	for _, cmd := range []string{"DATA", "BDAT 500"} {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{}
			p := startPipe(t, Options{}, plain(f))
			p.run(envelope)
			p.send(cmd + "\r\n")
			if cmd == "DATA" {
				p.expect("354 *")
			}
			p.send("Subject: x\r\n\r\n")
			begin := time.Now()
			p.expect("421 4.4.2 timeout, goodbye")
			if took := time.Since(begin); took != 5*time.Minute {
				t.Errorf("%s: waited %v", cmd, took)
			}
			io.WriteString(p.conn, "MAIL FROM:<ceo@bank.test>\r\nRCPT TO:<b@x.test>\r\n")
			if err := p.result(); !wire.IsTimeout(err) {
				t.Errorf("%s: got %v", cmd, err)
			}
			if got := strings.Join(f.log, "\n"); strings.Contains(got, "ceo") || !strings.HasSuffix(got, "\nreset") {
				t.Errorf("%s: session saw %s", cmd, got)
			}
		})
	}
}

// Answers do not wait long for the rest of their batch.
func TestSlowBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPipe(t, Options{}, plain(&fake{}))
		p.run("S: 220 *\nC: HELO x\nS: 250 *")
		begin := time.Now()
		go io.WriteString(p.conn, "MAIL FROM:<a@x.test>\r\n"+strings.Repeat("RCPT TO:<slow@x.test>\r\n", 10)+"QUIT\r\n")
		p.run("S: 250 *\nS: 250 *")
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("the first answer came after %v", took)
		}
		p.run(strings.Repeat("S: 250 *\n", 9) + "S: 221 *")
		p.result()
	})
}

// The time for a message is counted for each wait and not for the whole.
func TestSteadyWriterIsNotCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPipe(t, Options{}, plain(&fake{}))
		p.run(envelope + "C: DATA\nS: 354 *")
		for range 20 { // much longer than the time-out in all
			time.Sleep(4 * time.Minute)
			p.send("line\r\n")
		}
		p.run("C: .\nS: 250 2.0.0 taken\nC: QUIT\nS: 221 *")
		p.result()
	})
}

// Where a login is required, a client has a fixed time for it, however busy it
// keeps the server; one that has logged in has all the time it wants.
func TestLoginTimeout(t *testing.T) {
	o := Options{RequireAuth: true, AllowCleartextAuth: true, LoginTimeout: time.Minute, MaxMistakes: 1000}
	synctest.Test(t, func(t *testing.T) {
		p := startPipe(t, o, withLogin(&loginFake{}))
		p.run("S: 220 *")
		begin := time.Now()
		for range 5 {
			time.Sleep(10 * time.Second)
			p.run("C: NOOP\nS: 250 *")
		}
		p.expect("421 4.4.2 timeout, goodbye")
		if took := time.Since(begin); took != time.Minute {
			t.Errorf("cut after %v", took)
		}
		p.result()

		p = startPipe(t, o, withLogin(&loginFake{}))
		p.run("S: 220 *\nC: HELO x\nS: 250 *\nC: AUTH PLAIN AGEAc2VjcmV0\nS: 235 *")
		for range 5 {
			time.Sleep(4 * time.Minute)
			p.run("C: NOOP\nS: 250 *")
		}
		p.run("C: QUIT\nS: 221 *")
		p.result()
	})
}

func TestLostInData(t *testing.T) {
	for _, cmd := range []string{"DATA\r\n", "BDAT 500\r\n", "BDAT 4\r\na\r\nbBDAT 5 LAST\r\n", "BDAT 3\r\na\r\n"} {
		f := &fake{}
		p := start(t, Options{}, plain(f))
		p.run(envelope)
		p.send(cmd + "Subject: x\r\n\r\n"[:4])
		p.conn.Close()
		p.result()
		if len(f.bodies) != 0 || f.log[len(f.log)-1] != "reset" {
			t.Errorf("%q: session saw %q", cmd, f.log)
		}
	}
}

// An answer that the daemon's end overtakes is still given; a message that it
// overtakes is not accepted.
func TestShutdown(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	f := &fake{replies: func(int) []Reply {
		cancel(server.ErrShutdown)
		return []Reply{NewReply(250, "2.0.0", "taken")}
	}}
	p := startContext(t, ctx, Options{}, plain(f))
	p.run(envelope + "C: DATA\nS: 354 *\nC: .\nS: 250 2.0.0 taken\nS: 421 4.3.2 *")
	if err := p.end(); !errors.Is(err, server.ErrShutdown) {
		t.Errorf("got %v", err)
	}

	ctx, cancel = context.WithCancelCause(context.Background())
	f = &fake{}
	p = startContext(t, ctx, Options{}, plain(f))
	p.run(envelope + "C: DATA\nS: 354 *\nC: half")
	cancel(server.ErrShutdown)
	p.run("S: 421 4.3.2 *")
	if err := p.end(); !errors.Is(err, server.ErrShutdown) {
		t.Errorf("got %v", err)
	}
	if len(f.bodies) != 0 {
		t.Error("half a message was accepted")
	}
}

// A yes from a session that did not read the message is a mistake of ours.
func TestAcceptedUnread(t *testing.T) {
	f := &fake{early: true}
	p := start(t, Options{}, plain(f))
	p.run(envelope + "C: DATA\nS: 354 *\nC: x\nC: .\nS: 451 4.3.0 *\nC: NOOP\nS: 250 *")
}

// model is dots, written for the eye: bytes.
func model(in []byte) (out []byte, rest []byte, ok bool) {
	start := true
	for i := 0; i < len(in); i++ {
		if start && in[i] == '.' {
			if bytes.HasPrefix(in[i:], []byte(".\r\n")) {
				return out, in[i+3:], true
			}
			start = false
			continue
		}
		out = append(out, in[i])
		start = in[i] == '\n' && i > 0 && in[i-1] == '\r'
	}
	return nil, nil, false
}

func FuzzDots(f *testing.F) {
	f.Add([]byte("a\r\n..b\r\n.\r\nrest"), 3)
	f.Add([]byte(".\r\n"), 1)
	f.Add([]byte("\r\n.\r\r\n.\n\r\n.\r\n."), 2)
	f.Add([]byte(".\r\n.\r\n"), 16)
	f.Add([]byte("..\r\n.\r\n"), 16)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		if step < 1 {
			step = 1
		}
		want, rest, ok := model(in)
		br := bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(in)), 16)
		if step%2 == 0 {
			br = bufio.NewReaderSize(bytes.NewReader(in), 16)
		}
		d := &dots{r: br}
		var got []byte
		var err error
		for buf := make([]byte, min(step, 100)); err == nil; {
			var n int
			n, err = d.Read(buf)
			got = append(got, buf[:n]...)
		}
		if ok != (err == io.EOF) || !ok && err != io.ErrUnexpectedEOF {
			t.Fatalf("got %v, want an end: %v", err, ok)
		}
		if !ok {
			return
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
		if after, _ := io.ReadAll(br); !bytes.Equal(after, rest) {
			t.Fatalf("left %q, want %q", after, rest)
		}
	})
}

func FuzzLineEnds(f *testing.F) {
	f.Add([]byte("a\r\nb\r\n"), 1)
	f.Add([]byte("a\rb"), 2)
	f.Add([]byte("\n"), 3)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		step = max(1, min(step, 100))
		want := !bytes.ContainsAny(bytes.ReplaceAll(in, []byte("\r\n"), nil), "\r\n")
		var l lineEnds
		got := true
		for rest := in; len(rest) > 0 && got; rest = rest[min(step, len(rest)):] {
			got = l.check(rest[:min(step, len(rest))])
		}
		got = got && !l.cr
		if got != want {
			t.Fatalf("%q: got %v, want %v", in, got, want)
		}
	})
}

// BenchmarkData measures a message's way from the buffer to the session.
func BenchmarkData(b *testing.B) {
	line := strings.Repeat("x", 76) + "\r\n"
	message := []byte(strings.Repeat(line, 10<<20/len(line)) + ".\r\n")
	b.SetBytes(int64(len(message)))
	r := bytes.NewReader(message)
	br := bufio.NewReaderSize(r, 4096)
	for b.Loop() {
		r.Reset(message)
		br.Reset(r)
		body := &body{src: &dots{r: br}}
		if n, err := io.Copy(io.Discard, body); err != nil || n != int64(len(message)-3) {
			b.Fatal(n, err)
		}
	}
}

// Lines of a message have no bound, and a big message does not live in memory.
func TestLongLinesAndBigMessages(t *testing.T) {
	f := &fake{}
	p := start(t, Options{}, plain(f))
	p.run(envelope + "C: DATA\nS: 354 *")
	long := strings.Repeat("x", 1<<20) + "\r\n"
	go io.WriteString(p.conn, long+long+".\r\n")
	p.run("S: 250 2.0.0 taken")
	if len(f.bodies) != 1 || f.bodies[0] != long+long {
		t.Error("the message changed")
	}
	p.run("C: QUIT\nS: 221 *")
	p.result()
}
