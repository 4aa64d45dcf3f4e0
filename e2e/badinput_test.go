package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	"switchyard/internal/harness"

	"golang.org/x/sync/errgroup"
)

// dialect is what the tests of bad input need of a protocol: the words for
// each mistake, as regular expressions.
type dialect struct {
	starttls   string // the command, without its line end
	unknown    string
	unknownSay string
	tooLong    string
	timeout    string
	quit       string
	goodbye    string
	answer     *regexp.Regexp // what every line from the server looks like
}

var (
	imapDialect = dialect{
		starttls: "a STARTTLS", unknown: "a FROBNICATE now", unknownSay: `(?m)^a BAD `, quit: "z LOGOUT", goodbye: `(?m)^z OK`,
		tooLong: `(?m)^\* BYE .*(long|big|Line)`, timeout: `(?m)^\* BYE Login took too long`,
		answer: regexp.MustCompile(`^(\*|\+|\S+) ?(OK|NO|BAD|BYE|ID|CAPABILITY)?`),
	}
	popDialect = dialect{
		starttls: "STLS", unknown: "FROBNICATE now", unknownSay: `(?m)^-ERR `, quit: "QUIT", goodbye: `(?m)^\+OK`,
		tooLong: `(?m)^-ERR .*long`, timeout: `(?m)^-ERR Login took too long`,
		answer: regexp.MustCompile(`^(\+OK|-ERR|\+ )`),
	}
	smtpDialect = dialect{
		starttls: "STARTTLS", unknown: "FROBNICATE now", unknownSay: `(?m)^500 5\.5\.[12] `, quit: "QUIT", goodbye: `(?m)^221 `,
		tooLong: `(?m)^500 5\.5\.2 line too long`, timeout: `(?m)^421 4\.4\.2 `,
		answer: regexp.MustCompile(`^[2-5]\d\d[ -]`),
	}
	proxyProtocols = []string{"imap", "pop3", "submission", "smtp"}

	dialects = map[string]dialect{"imap": imapDialect, "pop3": popDialect, "submission": smtpDialect, "smtp": smtpDialect, "lmtp": smtpDialect}
)

// insult is one client that does not behave.
type insult struct {
	name  string
	data  func(d dialect) []byte
	want  func(d dialect) string // in what it hears before the connection ends
	not   string                 // … and what must not be in it
	clear bool                   // only before TLS
}

// junk is the same for every run.
func junk(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

var insults = []insult{
	{name: "over-long line", data: func(d dialect) []byte {
		return []byte("a " + strings.Repeat("x", 1<<20) + "\r\n" + d.quit + "\r\n")
	}, want: func(d dialect) string { return d.tooLong }},
	{name: "unknown command", data: func(d dialect) []byte { return []byte(d.unknown + "\r\n" + d.quit + "\r\n") },
		want: func(d dialect) string { return d.unknownSay + `(?s:.*)` + d.goodbye }},
	{name: "nothing but unknown commands", data: func(d dialect) []byte { return bytes.Repeat([]byte(d.unknown+"\r\n"), 1000) },
		want: func(d dialect) string { return d.unknownSay }},
	{name: "binary", data: func(dialect) []byte { return junk(64 << 10) }, want: func(dialect) string { return `` }},
	{name: "binary lines", data: func(d dialect) []byte {
		return append(bytes.ReplaceAll(junk(4<<10), []byte("\n"), []byte("\r\n")), "\r\n"+d.quit+"\r\n"...)
	}, want: func(dialect) string { return `` }},
	{name: "TLS to a listener in clear", data: func(dialect) []byte {
		return append([]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), junk(500)...)
	}, want: func(dialect) string { return `` }, clear: true},
	{name: "HTTP", data: func(dialect) []byte {
		return []byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n" + strings.Repeat("a LOGIN anna sesame\r\n", 20))
	}, want: func(dialect) string { return `` }},
	{name: "bytes behind STARTTLS", data: func(d dialect) []byte { return []byte(d.starttls + "\r\n" + d.quit + "\r\n") },
		want: func(dialect) string { return `` }, not: `OK|220 |221 |250 `, clear: true},
	{name: "20 MB without a line end", data: func(dialect) []byte { return bytes.Repeat([]byte("y"), 20<<20) },
		want: func(d dialect) string { return d.tooLong }},
}

// preLogin is how long the proxies of these tests wait for a login.
const preLogin = 3 * time.Second

// TestBadInput: each gets the protocol's own clear error or a clean end, and
// other sessions do not notice.
func TestBadInput(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{ProxyExtra: fmt.Sprintf("pre_login = %q", preLogin)})
	w := c.witness(t)
	for _, protocol := range proxyProtocols {
		t.Run("proxy "+protocol, func(t *testing.T) {
			for _, i := range insults {
				insultOne(t, i, protocol, plain(t, c.Proxies[0].Addr[protocol]))
				w.fine(t)
			}
		})
	}
	for _, protocol := range []string{"imap", "pop3", "submission", "lmtp"} {
		t.Run("backend "+protocol, func(t *testing.T) {
			for _, i := range insults {
				if !i.clear {
					insultOne(t, i, protocol, c.secure(t, c.Backend("b1").Addr[protocol]))
					w.fine(t)
				}
			}
		})
	}
}

// insultOne lets one client misbehave and looks at what it hears.
func insultOne(t *testing.T, i insult, protocol string, k *talk) {
	t.Helper()
	d := dialects[protocol]
	defer k.conn.Close()
	k.conn.SetDeadline(time.Now().Add(stepTimeout))
	k.line() // the greeting
	if protocol != "imap" && protocol != "pop3" {
		k.say("%s client.example.org", map[bool]string{true: "LHLO", false: "EHLO"}[protocol == "lmtp"])
		k.wantReply("250")
	}
	var sending errgroup.Group
	sending.Go(func() error {
		k.conn.Write(i.data(d)) // it fails when the server hangs up first
		if h, ok := k.conn.(interface{ CloseWrite() error }); ok {
			h.CloseWrite()
		}
		return nil
	})
	heard := k.end()
	sending.Wait()
	if !regexp.MustCompile(i.want(d)).MatchString(heard) {
		t.Errorf("%s: heard %.300q, want %s", i.name, heard, i.want(d))
	}
	for _, l := range strings.Split(strings.TrimSuffix(heard, "\r\n"), "\r\n") {
		if l != "" && !d.answer.MatchString(l) {
			t.Errorf("%s: a line that is none of the protocol's: %.300q", i.name, l)
		}
	}
	if i.not != "" && regexp.MustCompile(i.not).MatchString(heard) {
		t.Errorf("%s: heard %q, and no %s was wanted", i.name, heard, i.not)
	}
}

// TestHalfOpen: a client that stops in the middle of a line, or says nothing,
// is sent away within the time before login.
func TestHalfOpen(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{ProxyExtra: fmt.Sprintf("pre_login = %q", preLogin)})
	w := c.witness(t)
	var all errgroup.Group
	for _, protocol := range proxyProtocols {
		d := dialects[protocol]
		for _, start := range []string{"", "a", "EHLO x\r\nAUTH PLAIN\r\nAAAA", "a LOGIN {5}\r\n", d.starttls + "\r\n"} {
			k := plain(t, c.Proxies[0].Addr[protocol])
			k.send(start)
			all.Go(func() error {
				began := time.Now()
				heard := k.end()
				took := time.Since(began)
				switch {
				case took > preLogin+5*time.Second:
					return fmt.Errorf("%s behind %q: it took %v", protocol, start, took)
				case !strings.Contains(start, d.starttls) && !regexp.MustCompile(d.timeout).MatchString(heard):
					return fmt.Errorf("%s behind %q: heard %q, want %s", protocol, start, heard, d.timeout)
				}
				return nil
			})
		}
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
	w.fine(t)
}

// TestBigLiterals: a literal that is too big is refused before its bytes are
// asked for, and ends the session when they come unasked.
func TestBigLiterals(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{})
	w := c.witness(t)
	a := c.account(t, "literal", "b1")
	t.Run("before login", func(t *testing.T) {
		k := plain(t, c.Proxies[0].Addr["imap"])
		k.want("* OK")
		k.say("a LOGIN {100000000}")
		if got := k.line(); strings.HasPrefix(got, "+") {
			t.Errorf("it was asked for: %q", got)
		}
		k = plain(t, c.Proxies[0].Addr["imap"])
		k.want("* OK")
		k.say("a LOGIN {100000000+}")
		if got := k.end(); !strings.Contains(got, "BAD") && !strings.Contains(got, "BYE") {
			t.Errorf("unasked: heard %q", got)
		}
	})
	t.Run("behind the login", func(t *testing.T) {
		k := plain(t, c.Proxies[0].Addr["imap"])
		if got := c.answer(k, "imap", a); !strings.HasPrefix(got, "OK") {
			t.Fatal(got)
		}
		k.say("b APPEND INBOX {4000000000}")
		k.want("b NO [TOOBIG]")
		k.say("c APPEND INBOX {99999999999999999999}")
		if got := k.line(); strings.HasPrefix(got, "+") {
			t.Errorf("it was asked for: %q", got)
		}
		k.say("d NOOP")
		k.until("d OK")
		k.say("e APPEND INBOX {4000000000+}")
		if got := k.end(); !strings.Contains(got, "[TOOBIG]") && !strings.Contains(got, "BYE") {
			t.Errorf("unasked: heard %q", got)
		}
	})
	w.fine(t)
}

// TestMemory: 200 clients that each send as much as they can without a line
// end do not make the proxy big, and neither do 200 that stop half-way.
func TestMemory(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{})
	w := c.witness(t)
	p := c.Proxies[0]
	before := memory(t, p.PID(), "VmRSS")
	endless := bytes.Repeat([]byte("y"), 20<<20)
	var all errgroup.Group
	all.SetLimit(20)
	for i := range 200 {
		protocol := []string{"imap", "pop3", "submission", "smtp"}[i%4]
		all.Go(func() error {
			conn, err := tryDial(loopback(t), p.Addr[protocol])
			if err != nil {
				return err
			}
			defer conn.Close()
			conn.Write(endless)
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	var half []*talk
	for i := range 200 {
		k := newTalk(t, dialFrom(t, loopback(t), p.Addr[[]string{"imap", "pop3"}[i%2]]))
		k.want([]string{"* OK", "+OK"}[i%2])
		k.send(strings.Repeat("z", 15<<10)) // as much as a line before login may have
		half = append(half, k)
	}
	w.fine(t)
	after := memory(t, p.PID(), "VmHWM")
	t.Logf("the proxy had %d MiB before, and %d MiB at most during 200 endless and 200 half lines", before>>20, after>>20)
	// 200 sessions before login at the 128 KiB of admit.Options.Total, and what
	// the collector has not got round to.
	if most := before + 2*200*128<<10 + 32<<20; after > most {
		t.Errorf("the proxy grew to %d MiB, want at most %d", after>>20, most>>20)
	}
	for _, k := range half {
		k.conn.Close()
	}
}

// witness is a session that must not notice what others do.
type witness struct{ k *talk }

func (c *cluster) witness(t *testing.T) *witness {
	t.Helper()
	k := plain(t, c.Proxies[0].Addr["imap"])
	if got := c.answer(k, "imap", c.account(t, "witness", "b1")); !strings.HasPrefix(got, "OK") {
		t.Fatal(got)
	}
	k.say("s SELECT INBOX")
	k.until("s OK")
	return &witness{k}
}

// fine makes a round trip to the backend.
func (w *witness) fine(t *testing.T) {
	t.Helper()
	w.k.conn.SetDeadline(time.Now().Add(stepTimeout))
	w.k.say("n NOOP")
	w.k.until("n OK")
}
