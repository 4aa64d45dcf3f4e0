package smtp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"switchyard/backend/queue"
	"switchyard/lookup"
)

var userLogin = `
	S: 220 b1a.here.test ESMTP
	C: EHLO laptop
	S- AUTH PLAIN LOGIN
	C: AUTH PLAIN ` + b64("\x00anna@here.test\x00"+password) + `
	S: 235 *
`

const mailToBen = `
	C: MAIL FROM:<anna@here.test>
	S: 250 *
	C: RCPT TO:<ben@here.test>
	S: 250 *
	C: DATA
	S: 354 *
	C: Subject: x
	C: Bcc: secret@here.test
	C: 
	C: body
	C: .
	S: 250 2.0.0 queued as *
`

func TestSubmit(t *testing.T) {
	n := newNode(t, settings{})
	c := n.secured(n.subm.ServeTLS)
	c.run(userLogin + mailToBen + "C: QUIT\nS: 221 *\nEOF")
	eventually(t, "ben has it", func() bool { return len(n.inbox("ben")) == 1 })
	text := n.inbox("ben")[0]
	m, err := mail.ReadMessage(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]string{"Return-Path": "<anna@here.test>", "Subject": "x", "Bcc": ""} {
		if got := m.Header.Get(field); got != want {
			t.Errorf("%s: got %q, want %q", field, got, want)
		}
	}
	if _, err := m.Header.Date(); err != nil {
		t.Error(err)
	}
	if id := m.Header.Get("Message-ID"); !strings.HasPrefix(id, "<") || !strings.HasSuffix(id, "@b1a.here.test>") {
		t.Errorf("Message-ID %q", id)
	}
	if got := m.Header["Received"]; len(got) != 1 || !strings.Contains(got[0], "from laptop ([127.0.0.1]) by b1a.here.test with ESMTPSA id ") {
		t.Errorf("Received %q", got)
	}
	if body, _ := io.ReadAll(m.Body); string(body) != "body\r\n" {
		t.Errorf("body %q", body)
	}
	eventually(t, "the queue is empty", func() bool { return n.queue.Len() == 0 })
	f := n.logs.FilterMessage("message").All()[0].ContextMap()
	if f["user"] != "anna@here.test" || f["from"] != "anna@here.test" || !strings.Contains(fmt.Sprint(f["reply"]), "queued as") {
		t.Errorf("logged %v", f)
	}
	if all := fmt.Sprint(n.logs.All()); strings.Contains(all, "sesame") {
		t.Error("a password was logged")
	}
}

func TestSenderRights(t *testing.T) {
	n := newNode(t, settings{still: true})
	c := n.secured(n.subm.ServeTLS)
	c.run(userLogin)
	for from, want := range map[string]string{
		"anna@here.test": "250", "ANNA@Here.Test": "250", "anna+list@here.test": "250", "": "250",
		"ben@here.test": "553 5.7.1", "anna@out.test": "553 5.7.1", `"anna x"@here.test`: "553 5.7.1", "ben+anna@here.test": "553 5.7.1",
	} {
		c.run("C: MAIL FROM:<" + from + ">\nS: " + want + " *\nC: RSET\nS: 250 *")
	}
}

func TestSubmissionRecipients(t *testing.T) {
	for relays, want := range map[bool]string{false: "550 5.7.1", true: "250"} {
		t.Run(fmt.Sprint("relays ", relays), func(t *testing.T) {
			s := settings{still: true}
			if relays {
				s.queue.Relay = []queue.Server{{Address: "127.0.0.1:1"}}
			}
			n := newNode(t, s)
			c := n.secured(n.subm.ServeTLS)
			c.run(userLogin)
			c.run(`
				C: MAIL FROM:<anna@here.test>
				S: 250 *
				C: RCPT TO:<nobody@here.test>
				S: 550 5.1.1 *
				C: RCPT TO:<closed@here.test>
				S: 550 5.2.1 *
				C: RCPT TO:<far@here.test>
				S: 250 *
				C: RCPT TO:<x@out.test> NOTIFY=FAILURE,DELAY ORCPT=rfc822;X@out.test
				S: ` + want + ` *`)
			n.dir.set(lookup.Unavailable("dial", errors.New("refused")))
			c.run(`
				C: RCPT TO:<ben@here.test>
				S: 451 4.3.0 *
				C: DATA
				S: 354 *
				C: Message-ID: <own@x>
				C: 
				C: .
				S: 250 2.0.0 *`)
			list := n.queue.List()
			if len(list) != 1 {
				t.Fatalf("queued %v", list)
			}
			if relays {
				to := list[0].Recipients[1]
				if to.Lane != queue.LaneRelay || to.Original != "rfc822;X@out.test" || fmt.Sprint(to.Notify) != "[FAILURE DELAY]" {
					t.Errorf("queued %+v", to)
				}
			}
		})
	}
}

func TestSubmissionLogins(t *testing.T) {
	for name, c := range map[string]struct {
		message, want string
		dir           error
	}{
		"wrong password":   {"\x00anna\x00wrong", "535 5.7.8", nil},
		"nobody":           {"\x00nobody\x00" + password, "535 5.7.8", nil},
		"suspended":        {"\x00eve\x00" + password, "525 5.7.13", nil},
		"moved":            {"\x00far\x00" + password, "454 4.1.6", nil},
		"unavailable":      {"\x00anna\x00" + password, "454 4.7.0", lookup.Unavailable("x", nil)},
		"a bug":            {"\x00anna\x00" + password, "454 4.7.0", errors.New("bug")},
		"for another":      {"ben\x00anna\x00" + password, "535 5.7.8", nil},
		"proxy for anna":   {"anna@here.test\x00proxy\x00cluster secret", "235", nil},
		"proxy for no-one": {"\x00proxy\x00cluster secret", "535 5.7.8", nil},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, settings{})
			n.dir.set(c.dir)
			cl := n.secured(n.subm.ServeTLS)
			cl.run("S: 220 *\nC: EHLO x\nS- AUTH *\nC: AUTH PLAIN " + b64(c.message) + "\nS: " + c.want + " *")
		})
	}
}

// TestSubmissionInClear: no password in clear, unless it is allowed, and a
// proxy's secret never.
func TestSubmissionInClear(t *testing.T) {
	for allow, want := range map[bool][2]string{false: {"538", "538"}, true: {"535", "235"}} {
		n := newNode(t, settings{smtp: Options{AllowClear: allow}})
		c := n.dial(context.Background(), "127.0.0.1", n.subm.Serve)
		c.run("S: 220 *\nC: EHLO x\nS- STARTTLS\nC: AUTH PLAIN " + b64("anna@here.test\x00proxy\x00cluster secret") + "\nS: " + want[0] + " *\n" +
			"C: AUTH PLAIN " + b64("\x00anna\x00"+password) + "\nS: " + want[1] + " *")
	}
}

// TestProxiedSubmission: the client's identity is in the log and in Received.
func TestProxiedSubmission(t *testing.T) {
	n := newNode(t, settings{})
	c := n.secured(n.subm.ServeTLS)
	c.run(`
		S: 220 *
		C: EHLO proxy.here.test
		S- XCLIENT *
		C: XCLIENT SESSION=s7 HELO=laptop PORT=5000 ADDR=IPV6:2001:db8::1
		S: 220 *
		C: EHLO proxy.here.test
		S- AUTH *
		C: AUTH PLAIN ` + b64("anna@here.test\x00proxy\x00cluster secret") + `
		S: 235 *` + mailToBen)
	eventually(t, "ben has it", func() bool { return len(n.inbox("ben")) == 1 })
	if got := n.inbox("ben")[0]; !strings.Contains(got, "Received: from laptop ([IPv6:2001:db8::1])\r\n\tby b1a.here.test with ESMTPSA id s7;") {
		t.Errorf("got %q", got)
	}
	f := n.logs.FilterMessage("message").All()[0].ContextMap()
	if f["session"] != "s7" || f["client"] != "[2001:db8::1]:5000" {
		t.Errorf("logged %v", f)
	}
}

func TestQueueFull(t *testing.T) {
	n := newNode(t, settings{still: true, queue: queue.Options{MaxEntries: 1}})
	c := n.secured(n.subm.ServeTLS)
	c.run(userLogin + mailToBen + strings.Replace(mailToBen, "250 2.0.0 queued as", "452 4.3.1", 1))
}

func TestLoop(t *testing.T) {
	n := newNode(t, settings{still: true})
	c := n.secured(n.subm.ServeTLS)
	c.run(userLogin + `
		C: MAIL FROM:<anna@here.test>
		S: 250 *
		C: RCPT TO:<ben@here.test>
		S: 250 *
		C: DATA
		S: 354 *
		` + strings.Repeat("C: Received: by x\n", maxReceived+1) + `
		C: 
		C: .
		S: 554 5.4.6 *`)
}

func TestFixUp(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	const date = "Date: Sun, 1 Mar 2026 12:00:00 +0000\r\n"
	for name, c := range map[string]struct{ in, want string }{
		"complete":         {"Date: x\r\nMessage-ID: <1@x>\r\n\r\nbody\r\n", "Date: x\r\nMessage-ID: <1@x>\r\n\r\nbody\r\n"},
		"date missing":     {"Message-ID: <1@x>\r\n\r\nbody\r\n", "Message-ID: <1@x>\r\n" + date + "\r\nbody\r\n"},
		"id missing":       {"date : x\r\n\r\n", "date : x\r\nMessage-ID: ID\r\n\r\n"},
		"bcc":              {"Date: x\r\nBCC: a@x,\r\n\tb@x\r\nMessage-ID: <1@x>\r\n\r\nBcc: no field\r\n", "Date: x\r\nMessage-ID: <1@x>\r\n\r\nBcc: no field\r\n"},
		"folded":           {"Date:\r\n x\r\nMessage-ID: <1@x>\r\nX: y\r\n Date: z\r\n\r\n", "Date:\r\n x\r\nMessage-ID: <1@x>\r\nX: y\r\n Date: z\r\n\r\n"},
		"no header":        {"hello world\r\nsecond\r\n", date + "Message-ID: ID\r\n\r\nhello world\r\nsecond\r\n"},
		"starts folded":    {" hello: x\r\n", date + "Message-ID: ID\r\n\r\n hello: x\r\n"},
		"only a body":      {"\r\nbody\r\n", date + "Message-ID: ID\r\n\r\nbody\r\n"},
		"nothing":          {"", date + "Message-ID: ID\r\n\r\n"},
		"no end of header": {"Subject: x\r\n", "Subject: x\r\n" + date + "Message-ID: ID\r\n\r\n"},
		"no end of line":   {"Subject: x", "Subject: x\r\n" + date + "Message-ID: ID\r\n\r\n"},
		"no empty line":    {"Subject: x\r\nhello\r\n", "Subject: x\r\n" + date + "Message-ID: ID\r\n\r\nhello\r\n"},
		"long field": {"Date: x\r\nMessage-ID: <1@x>\r\nBcc: " + strings.Repeat("a@x, ", 3000) + "\r\nX: " + strings.Repeat("y", 9000) + "\r\n\r\n",
			"Date: x\r\nMessage-ID: <1@x>\r\nX: " + strings.Repeat("y", 9000) + "\r\n\r\n"},
	} {
		for cut, reader := range map[string]io.Reader{"whole": strings.NewReader(c.in), "bytes": iotest.OneByteReader(strings.NewReader(c.in))} {
			var out bytes.Buffer
			if err := fixUp(&out, reader, "h.test", now); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			got := out.String()
			if i := strings.Index(got, "@h.test>"); i >= 0 {
				start := strings.LastIndex(got[:i], "<")
				got = got[:start] + "ID" + got[i+len("@h.test>"):]
			}
			if got != c.want {
				t.Errorf("%s, %s: got %q, want %q", name, cut, got, c.want)
			}
		}
	}
	broken := errors.New("broken")
	if err := fixUp(io.Discard, iotest.ErrReader(broken), "h", now); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if err := fixUp(io.Discard, io.MultiReader(strings.NewReader("A: b\r\n\r\nc"), iotest.ErrReader(broken)), "h", now); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

// FuzzFixUp: whatever comes in, what goes out has a Date and a Message-ID and
// no Bcc, and doing it again changes nothing.
func FuzzFixUp(f *testing.F) {
	f.Add([]byte("Subject: x\r\nBcc: y\r\n z\r\n\r\nbody"))
	f.Add([]byte("x\r\n\r\n"))
	f.Add([]byte("a:" + strings.Repeat("b", 5000) + "\r\n\tc\r\n\r\n"))
	f.Add([]byte("\r"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if bytes.Count(in, []byte("\n")) != bytes.Count(in, []byte("\r\n")) || bytes.Count(in, []byte("\r")) != bytes.Count(in, []byte("\r\n")) {
			return // smtpd lets nothing else through
		}
		now := time.Unix(0, 0)
		var once, twice bytes.Buffer
		if err := fixUp(&once, bytes.NewReader(in), "h", now); err != nil {
			if errors.Is(err, errLoop) {
				return
			}
			t.Fatal(err)
		}
		if err := fixUp(&twice, bytes.NewReader(once.Bytes()), "h", now); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(once.Bytes(), twice.Bytes()) {
			t.Fatalf("%q, then %q", once.String(), twice.String())
		}
		header, _, _ := strings.Cut(once.String(), "\r\n\r\n")
		lower := "\r\n" + strings.ToLower(header)
		if strings.Contains(lower, "\r\nbcc:") || !strings.Contains(lower, "\r\ndate") || !strings.Contains(lower, "\r\nmessage-id") {
			t.Fatalf("header %q", header)
		}
	})
}
