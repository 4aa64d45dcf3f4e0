package queue

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/backend"
	"switchyard/lookup"
)

// successes lists whose success the reports in a mailbox are about.
func successes(box []string) (out []string) {
	for _, m := range box {
		if !strings.Contains(m, "\r\nAction: delivered\r\nStatus: 2.1.5\r\n") {
			continue
		}
		_, rest, _ := strings.Cut(m, "\r\nFinal-Recipient: rfc822; ")
		address, _, _ := strings.Cut(rest, "\r\n")
		if _, rest, found := strings.Cut(m, "\r\nOriginal-Recipient: "); found {
			original, _, _ := strings.Cut(rest, "\r\n")
			address += " for " + original
		}
		out = append(out, address)
	}
	slices.Sort(out)
	return out
}

// TestSuccess: who asks to hear of success does so once for each recipient that was
// named, from the place where the message has come to rest.
func TestSuccess(t *testing.T) {
	for name, c := range map[string]struct {
		records map[string]lookup.Account
		from    string
		notify  []string
		to      string
		want    string // reports, in the sender's mailbox
		out     string // NOTIFY, as the relay heard it
	}{
		"a mailbox":                    {nil, "eve@here.test", []string{"SUCCESS"}, "ben@here.test", "[ben@here.test]", ""},
		"and failure":                  {nil, "eve@here.test", []string{"FAILURE", "SUCCESS"}, "ben@here.test", "[ben@here.test]", ""},
		"nothing said":                 {nil, "eve@here.test", nil, "ben@here.test", "[]", ""},
		"other wishes":                 {nil, "eve@here.test", []string{"FAILURE", "DELAY"}, "ben@here.test", "[]", ""},
		"never":                        {nil, "eve@here.test", []string{"NEVER"}, "ben@here.test", "[]", ""},
		"the null sender":              {nil, "", []string{"SUCCESS"}, "ben@here.test", "[]", ""},
		"nobody":                       {nil, "eve@here.test", []string{"SUCCESS"}, "nobody@here.test", "[]", ""},
		"an alias":                     {map[string]lookup.Account{"all@here.test": alias("anna,ben")}, "eve@here.test", []string{"SUCCESS"}, "all@here.test", "[anna@here.test for rfc822;all@here.test]", ""},
		"kept and forwarded":           {map[string]lookup.Account{"f@here.test": forwarding(false, "y@out.test")}, "eve@here.test", []string{"SUCCESS"}, "f@here.test", "[f@here.test]", "NEVER"},
		"kept, forwarded, and failure": {map[string]lookup.Account{"f@here.test": forwarding(false, "y@out.test")}, "eve@here.test", []string{"SUCCESS", "FAILURE"}, "f@here.test", "[f@here.test]", "FAILURE"},
		"forwarded":                    {map[string]lookup.Account{"f@here.test": forwarding(true, "ben", "anna")}, "eve@here.test", []string{"SUCCESS"}, "f@here.test", "[ben@here.test for rfc822;f@here.test]", ""},
		"out":                          {nil, "eve@here.test", []string{"SUCCESS"}, "y@out.test", "[]", "SUCCESS"},
		"forwarded out":                {map[string]lookup.Account{"f@here.test": forwarding(true, "y@out.test")}, "eve@here.test", []string{"SUCCESS"}, "f@here.test", "[]", "SUCCESS"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if c.records == nil {
					c.records = make(map[string]lookup.Account)
				}
				c.records["eve@here.test"] = lookup.Account{Home: "b1"}
				b, _ := newHome(t, Options{Relay: servers}, c.records)
				b.other.ehlo = []string{"DSN"}
				heard := ""
				b.other.reply = func(line string) string {
					if _, rest, found := strings.Cut(line, "NOTIFY="); found {
						heard, _, _ = strings.Cut(rest, " ")
					}
					return ""
				}
				defer b.run()()
				env := Envelope{From: c.from, To: []To{{Address: c.to, Notify: c.notify}}}
				if _, err := b.q.Accept(t.Context(), env, strings.NewReader(mailText), int64(len(mailText))); err != nil {
					t.Fatal(err)
				}
				pass(time.Minute)
				if got := fmt.Sprint(successes(b.disk.box("eve@here.test"))); got != c.want {
					t.Errorf("reports of %s, want %s", got, c.want)
				}
				if heard != c.out {
					t.Errorf("the relay heard NOTIFY=%s, want %s", heard, c.out)
				}
			})
		})
	}
}

// TestRelayed: where the next server will not tell of success, the sender hears that;
// one to whom there is no way, or who did not ask, does not. What fails is in a report
// of its own.
func TestRelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Relay: servers})
		b.other.reply = func(line string) string {
			if strings.HasPrefix(line, "RCPT TO:<no@") {
				return "550 5.1.1 who?"
			}
			return ""
		}
		defer b.run()()
		success := []string{"SUCCESS", "FAILURE"}
		env := Envelope{From: "anna@here.test", Return: "FULL", To: []To{
			{Address: "y@out.test", Notify: success, Original: "rfc822;Y@out.test"}, {Address: "no@out.test", Notify: success}, {Address: "quiet@out.test"},
		}}
		if _, err := b.q.Accept(t.Context(), env, strings.NewReader(mailText), int64(len(mailText))); err != nil {
			t.Fatal(err)
		}
		env.From, env.To = "", env.To[:1]
		if _, err := b.q.Accept(t.Context(), env, strings.NewReader(mailText), int64(len(mailText))); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		box := b.disk.box("anna@here.test")
		slices.SortFunc(box, func(a, b string) int { return strings.Index(a, "Action: failed") - strings.Index(b, "Action: failed") })
		if len(box) != 2 || b.q.Len() != 0 {
			t.Fatalf("%d reports, %d in the queue", len(box), b.q.Len())
		}
		for _, want := range []string{"\r\nSubject: Your mail was passed on\r\n", "\r\nOriginal-Recipient: rfc822;Y@out.test\r\nFinal-Recipient: rfc822; y@out.test\r\nAction: relayed\r\nStatus: 2.0.0\r\n"} {
			if !strings.Contains(box[0], want) {
				t.Errorf("%q is not in %s", want, box[0])
			}
		}
		if strings.Count(box[0], "Final-Recipient") != 1 || strings.Contains(box[0], "\r\nbody\r\n") {
			t.Errorf("the report of what was relayed: %s", box[0])
		}
		if strings.Count(box[1], "Final-Recipient: rfc822; no@out.test\r\nAction: failed") != 1 || !strings.Contains(box[1], "\r\nbody\r\n") {
			t.Errorf("the report of what failed: %s", box[1])
		}
	})
}

func TestEnhanced(t *testing.T) {
	for reply, want := range map[string]string{
		"250 2.1.5 delivered": "2.1.5", "250 OK": "2.0.0", "250": "2.0.0", "250 v1.2.3 took it": "2.0.0", "250 5.1.1 x": "2.0.0",
		"550 5.1.1 who?": "5.1.1", "554 no": "5.0.0", "451 4.4.7 given up": "4.4.7", "": "5.0.0", "no answer": "5.0.0",
	} {
		if got := enhanced(reply); got != want {
			t.Errorf("%q: got %s, want %s", reply, got, want)
		}
	}
}

// delivery is what a proxy brings for Ben, with another trace each time.
func (b *bench) delivery(from, text string, n int) (backend.Delivered, error) {
	trace := fmt.Sprintf("Received: by proxy %d\r\n", n)
	env := Envelope{From: from, ID: "e1", Return: "FULL", Trace: int64(len(trace))}
	m := Mailbox{User: &user{d: b.disk, name: "ben@here.test"}, Account: lookup.Account{Name: "ben@here.test"},
		To: To{Address: "Ben@here.test", Notify: []string{"SUCCESS"}, Original: "rfc822;b@far.test"}}
	return b.q.Deliver(b.t.Context(), m, env, "", strings.NewReader(trace+text), int64(len(trace+text)))
}

// TestSuccessOnce: a sender that repeats itself hears once, also when the report
// could not be queued at first; the report has the header alone.
func TestSuccessOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		steps := 0
		b.disk.trip = func() bool { steps++; return steps == 3 } // the mailbox has it, the report does not come
		if _, err := b.delivery("anna@here.test", mailText, 0); !errors.Is(err, errCrash) {
			t.Fatalf("got %v, want a crash before the report", err)
		}
		b.open()
		for n := range 2 {
			if done, err := b.delivery("anna@here.test", mailText, n+1); err != nil || !done.Duplicate {
				t.Fatalf("repeated: %+v, %v", done, err)
			}
		}
		stop := b.run()
		pass(time.Minute)
		stop()
		box := b.disk.box("anna@here.test")
		if len(box) != 1 || len(b.disk.box("ben@here.test")) != 1 {
			t.Fatalf("%d reports of %d messages", len(box), len(b.disk.box("ben@here.test")))
		}
		for _, want := range []string{
			"\r\nSubject: Your mail was delivered\r\n", "\r\nAuto-Submitted: auto-replied\r\n",
			"\r\nOriginal-Envelope-Id: e1\r\n", "\r\nOriginal-Recipient: rfc822;b@far.test\r\nFinal-Recipient: rfc822; Ben@here.test\r\nAction: delivered\r\n",
			"Content-Type: text/rfc822-headers\r\n", "\r\nSubject: x\r\n",
		} {
			if !strings.Contains(box[0], want) {
				t.Errorf("%q is not in %s", want, box[0])
			}
		}
		if strings.Contains(box[0], "body\r\n") {
			t.Error("the report gives the body back")
		}
	})
}

// TestSuccessFullQueue: without room for the report nothing is kept, so that a
// message without an id is not there twice; and a sender whom nothing reaches needs
// no room.
func TestSuccessFullQueue(t *testing.T) {
	b := newBench(t, Options{MaxEntries: 1})
	b.accept("", "anna@here.test")
	if _, err := b.delivery("anna@here.test", "Subject: x\r\n\r\n", 0); !errors.Is(err, backend.ErrBusy) || len(b.disk.box("ben@here.test")) != 0 {
		t.Errorf("a full queue: %v, and %d messages", err, len(b.disk.box("ben@here.test")))
	}
	if _, err := b.delivery("x@far.test", "Subject: x\r\n\r\n", 0); err != nil || len(b.disk.box("ben@here.test")) != 1 || b.q.Len() != 1 {
		t.Errorf("without a relay: %v, %d messages, %d in the queue", err, len(b.disk.box("ben@here.test")), b.q.Len())
	}
	b.disk.deliver = func(string) error { return backend.ErrBusy }
	b.q.o.MaxEntries = 2
	for range 3 { // the place is given back
		if _, err := b.delivery("anna@here.test", mailText, 0); !errors.Is(err, backend.ErrBusy) || b.disk.queued() != 1 {
			t.Errorf("a mailbox that is busy: %v", err)
		}
	}
	b.disk.deliver = nil
	if _, err := b.delivery("anna@here.test", mailText, 0); err != nil || b.q.Len() != 2 {
		t.Errorf("then: %v, %d in the queue", err, b.q.Len())
	}
}
