package smtpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestLimits: what LIMITS announces is kept (RFC 9422): so many messages on a
// connection, so many recipients of one, so many domains, and no fewer.
func TestLimits(t *testing.T) {
	f := &fake{}
	p := start(t, Options{MaxMessages: 2, MaxDomains: 3, MaxRecipients: 100}, plain(f))
	p.run("S: 220 *\nC: EHLO x\nS: 250-*\nS: 250-*\nS: 250-*\nS: 250-*\nS: 250-*\nS: 250-*\nS: 250-*\nS: 250-*\nS: 250 LIMITS MAILMAX=2 RCPTMAX=100 RCPTDOMAINMAX=3")
	p.run(`
		C: MAIL FROM:<a@x.test>
		S: 250 *
		C: RCPT TO:<b@one.test>
		S: 250 *
		C: RCPT TO:<c@ONE.test>
		S: 250 *
		C: RCPT TO:<nobody@two.test>
		S: 550 5.1.1 *
		C: RCPT TO:<b@three.test>
		S: 250 *
		C: RCPT TO:<b@four.test>
		S: 452 4.5.3 too many domains *
		C: RCPT TO:<b@two.test>
		S: 250 *`)
	for i := range 96 {
		p.run(fmt.Sprintf("C: RCPT TO:<u%d@one.test>\nS: 250 *", i))
	}
	p.run(`
		C: RCPT TO:<later@one.test>
		S: 452 4.5.3 too many recipients
		C: RCPT TO:<b@four.test>
		S: 452 4.5.3 too many *
		C: DATA
		S: 354 *
		C: .
		S: 250 *
		C: MAIL FROM:<a@x.test>
		S: 250 *
		C: RCPT TO:<b@four.test>
		S: 452 4.5.3 too many domains *
		C: RCPT TO:<b@three.test>
		S: 250 *
		C: RSET
		S: 250 *
		C: EHLO x
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250-*
		S: 250 *
		C: MAIL FROM:<a@x.test>
		S: 452 4.5.3 too many messages *
		C: RCPT TO:<b@one.test>
		S: 503 *
		C: QUIT
		S: 221 *`)
	if err := p.result(); err != nil {
		t.Error(err)
	}
}

// TestEarlyTalkers: who speaks before the greeting is refused, and nothing of what
// was said is run; who waits is greeted after the pause; without a pause nobody waits.
func TestEarlyTalkers(t *testing.T) {
	const pause = 3 * time.Second
	for name, c := range map[string]struct {
		pause time.Duration
		wait  time.Duration // before the client speaks
		want  string
		err   error
	}{
		"at once":         {pause, 0, "554 5.5.0 wait for the greeting, goodbye", ErrEarly},
		"in the pause":    {pause, pause - time.Millisecond, "554 5.5.0 wait for the greeting, goodbye", ErrEarly},
		"behind it":       {pause, pause + time.Millisecond, "220 mx.test ESMTP", nil},
		"without a pause": {0, 0, "220 mx.test ESMTP", nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{}
				p := startPipe(t, Options{Pause: c.pause}, plain(f))
				time.Sleep(c.wait)
				go io.WriteString(p.conn, "EHLO x\r\nMAIL FROM:<a@x.test>\r\n")
				p.expect(c.want)
				if c.err == nil {
					p.run("S: 250-*\nS: 250-*\nS: 250-*\nS: 250-*\nS: 250-*\nS: 250-*\nS: 250-*\nS: 250-*\nS: 250 *\nS: 250 *\nC: QUIT\nS: 221 *")
				}
				if err := p.result(); !errors.Is(err, c.err) {
					t.Errorf("got %v, want %v", err, c.err)
				}
				if c.err != nil && len(f.log) > 0 {
					t.Errorf("the session was asked %q", f.log)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		p := startPipe(t, Options{Pause: pause}, plain(&fake{}))
		p.conn.Close()
		if err := p.result(); err == nil || errors.Is(err, ErrEarly) {
			t.Errorf("a client that hangs up: got %v", err)
		}
	})
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("over"))
	p := startContext(t, ctx, Options{Pause: pause}, plain(&fake{}))
	if err := p.result(); err == nil || err.Error() != "over" {
		t.Errorf("a daemon that stops: got %v", err)
	}
}

// TestSmugglingBDAT: what ends a message to somebody else ends no chunk, and is
// refused in chunks as behind DATA wherever one is cut from the next; what is no line
// end at all stays as it is.
func TestSmugglingBDAT(t *testing.T) {
	const inner = "MAIL FROM:<ceo@bank.test>\r\nRCPT TO:<victim@x.test>\r\nDATA\r\nSubject: pay\r\n"
	for _, end := range []string{
		"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\r\r\n.\r\r\n", "\n\r\n.\n", "\r\n.\r\r\n", "\n.\r",
		"\r\n.\r\n", "\r\n\x00.\r\n", ".\r\n", "\r\n..\r\n",
	} {
		message := "a" + end + inner
		fine := !strings.ContainsAny(strings.ReplaceAll(message, "\r\n", ""), "\r\n")
		for cut := 1; cut <= len(end)+1; cut++ {
			t.Run(fmt.Sprintf("%q cut at %d", end, cut), func(t *testing.T) {
				f := &fake{}
				p := start(t, Options{}, plain(f))
				p.run(envelope)
				p.send(fmt.Sprintf("BDAT %d\r\n%sBDAT %d LAST\r\n%s", cut, message[:cut], len(message)-cut, message[cut:]))
				if fine {
					p.run("S: 250 2.0.0 *\nS: 250 2.0.0 taken\nC: NOOP\nS: 250 *\nC: QUIT\nS: 221 *")
				} else {
					p.run("C: NOOP\nC: QUIT")
				}
				p.result()
				for _, line := range f.log {
					if strings.Contains(line, "ceo") {
						t.Errorf("smuggled: %s", line)
					}
				}
				if fine != (len(f.bodies) == 1) || fine && f.bodies[0] != message {
					t.Errorf("got %q", f.bodies)
				}
			})
		}
	}
}
