package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/backend"
	"switchyard/lookup"

	"github.com/google/go-cmp/cmp"
)

// pass lets time pass in a bubble, and everything happen that is due then.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

var servers = []Server{{Address: "proxy.test:25"}}

func TestLocal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		defer b.run()()
		b.accept("eve@here.test", "anna@here.test", "ben+lists@here.test")
		synctest.Wait()
		want := []string{"Return-Path: <eve@here.test>\r\n" + mailText}
		for _, account := range []string{"anna@here.test", "ben@here.test"} {
			if diff := cmp.Diff(want, b.disk.box(account)); diff != "" {
				t.Errorf("%s: %s", account, diff)
			}
		}
		if b.disk.queued() != 0 || b.q.Len() != 0 {
			t.Errorf("left in the queue: %v", b.q.List())
		}
	})
}

// TestTrace: what was put in front on the way in does not make another message
// of a resubmission.
func TestTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		defer b.run()()
		for _, trace := range []string{"Received: first\r\n", "Received: once more\r\n"} {
			text := trace + mailText
			_, err := b.q.Accept(context.Background(), Envelope{To: []To{{Address: "anna@here.test"}}, Trace: int64(len(trace))}, strings.NewReader(text), int64(len(text)))
			if err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got := b.disk.box("anna@here.test"); len(got) != 1 {
			t.Errorf("delivered %d times", len(got))
		}
	})
}

// attempts counts Deliver calls and when they came, in minutes.
func attempts(b *bench, err error) *[]time.Duration {
	var when []time.Duration
	start := time.Now()
	b.disk.deliver = func(string) error {
		when = append(when, time.Since(start).Round(time.Second))
		return err
	}
	return &when
}

func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{GiveUp: 10 * time.Hour})
		when := attempts(b, backend.ErrOverQuota)
		defer b.run()()
		b.accept("", "anna@here.test")
		pass(100 * time.Hour)
		m, h := time.Minute, time.Hour
		want := []time.Duration{0, m, 6 * m, 21 * m, h + 21*m, 5*h + 21*m, 9*h + 21*m, 10 * h}
		if diff := cmp.Diff(want, *when); diff != "" {
			t.Error(diff)
		}
		if b.disk.queued() != 0 {
			t.Errorf("left in the queue: %v", b.q.List())
		}
	})
}

// TestRestart: attempts and their times survive the node.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		when := attempts(b, backend.ErrBusy)
		stop := b.run()
		b.accept("", "anna@here.test")
		pass(2 * time.Minute) // attempts at 0 and 1 m
		stop()
		b.open()
		stop = b.run()
		pass(3 * time.Minute) // not yet
		b.disk.deliver = nil
		if got := b.disk.box("anna@here.test"); len(*when) != 2 || len(got) != 0 {
			t.Errorf("attempts %v, delivered %d", *when, len(got))
		}
		pass(time.Minute + time.Second)
		stop()
		if got := b.disk.box("anna@here.test"); len(got) != 1 {
			t.Errorf("delivered %d times", len(got))
		}
	})
}

func TestThreeAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		err        error
		state      State
		lane       Lane
		reply      string
		reportable bool
	}{
		"absent":      {lookup.ErrAbsent, Failed, LaneLocal, "550 5.1.1", true},
		"closed":      {errClosed, Failed, LaneLocal, "550 5.2.1", true},
		"unavailable": {lookup.Unavailable("dial", errors.New("refused")), Waiting, LaneLocal, "451 4.3.0", false},
		"busy":        {backend.ErrBusy, Waiting, LaneLocal, "451 4.3.0", false},
		"a bug":       {errors.New("bug"), Waiting, LaneLocal, "451 4.3.0", false},
		"moved":       {backend.ErrMoved, Waiting, LaneProxies, "450 4.2.0", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, Options{Proxies: servers})
				b.other.reply = func(line string) string {
					if strings.HasPrefix(line, "RCPT") {
						return "450 4.2.0 later"
					}
					return ""
				}
				b.acc.set("anna@here.test", c.err)
				b.acc.set("ben@here.test", lookup.Unavailable("x", nil)) // keeps the entry alive
				b.acc.set("eve@here.test", nil)
				defer b.run()()
				b.accept("eve@here.test", "anna@here.test", "ben@here.test")
				synctest.Wait()
				r := b.q.List()[0].Recipients[0]
				if r.State != c.state || r.Lane != c.lane || !strings.HasPrefix(r.Reply, c.reply) {
					t.Errorf("got %+v", r)
				}
				if got := len(b.disk.box("eve@here.test")) == 1; got != c.reportable {
					t.Errorf("reported: %v", got)
				}
			})
		})
	}
}

func TestTooBigForTheMailbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		attempts(b, backend.ErrTooBig)
		defer b.run()()
		b.accept("", "anna@here.test")
		synctest.Wait()
		if b.disk.queued() != 0 {
			t.Error("tried again")
		}
	})
}

// TestMoved: a recipient whose account lives elsewhere goes to the proxies at
// once, also with another one that stays.
func TestMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Proxies: servers})
		b.acc.set("far@here.test", backend.ErrMoved)
		defer b.run()()
		b.accept("eve@here.test", "anna@here.test", "far@here.test")
		synctest.Wait()
		want := []received{{from: "MAIL FROM:<eve@here.test>", to: []string{"far@here.test"}, text: mailText}}
		if diff := cmp.Diff(want, b.other.got(), cmp.AllowUnexported(received{})); diff != "" {
			t.Error(diff)
		}
		if len(b.disk.box("anna@here.test")) != 1 || b.disk.queued() != 0 {
			t.Errorf("left in the queue: %v", b.q.List())
		}
	})
}

func TestMovedOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Proxies: servers})
		b.acc.set("anna@here.test", backend.ErrMoved)
		b.acc.set("ben@here.test", lookup.Unavailable("x", nil))
		defer b.run()()
		b.accept("", "anna@here.test", "ben@here.test")
		synctest.Wait()
		b.acc.set("ben@here.test", backend.ErrMoved)
		pass(time.Hour)
		if got := b.other.got(); len(got) != 2 || b.disk.queued() != 0 {
			t.Errorf("got %v; left: %v", got, b.q.List())
		}
	})
}

// replies scripts a server by the start of the command.
func replies(m map[string]string) func(string) string {
	return func(line string) string {
		for prefix, a := range m {
			if strings.HasPrefix(line, prefix) {
				return a
			}
		}
		return ""
	}
}

func TestRelayReplies(t *testing.T) {
	const a, z = "a@out.test", "z@out.test"
	for name, c := range map[string]struct {
		reply  map[string]string
		states map[string]State
		has    string // in a's last reply
	}{
		"taken":            {nil, map[string]State{a: Delivered, z: Delivered}, "250 2.0.0 taken"},
		"one refused":      {map[string]string{"RCPT TO:<a": "550 5.1.1 who"}, map[string]State{a: Failed, z: Delivered}, "550 5.1.1 who"},
		"one later":        {map[string]string{"RCPT TO:<a": "450 4.2.1 busy"}, map[string]State{a: Waiting, z: Delivered}, "450 4.2.1 busy"},
		"sender refused":   {map[string]string{"MAIL": "553 5.7.1 no"}, map[string]State{a: Failed, z: Failed}, "553 5.7.1 no"},
		"data refused":     {map[string]string{"DATA": "554 5.0.0 no"}, map[string]State{a: Failed, z: Failed}, "554 5.0.0 no"},
		"message refused":  {map[string]string{".": "554 5.6.0 spam"}, map[string]State{a: Failed, z: Failed}, "554 5.6.0 spam"},
		"message later":    {map[string]string{".": "451 4.3.0 later"}, map[string]State{a: Waiting, z: Waiting}, "451 4.3.0 later"},
		"closed at MAIL":   {map[string]string{"MAIL": "close"}, map[string]State{a: Waiting, z: Waiting}, "451 4.4.1"},
		"closed at RCPT":   {map[string]string{"RCPT TO:<z": "close"}, map[string]State{a: Waiting, z: Waiting}, "451 4.4.1"},
		"closed at the .":  {map[string]string{".": "close"}, map[string]State{a: Waiting, z: Waiting}, "451 4.4.1"},
		"closing":          {map[string]string{"RCPT TO:<a": "421 4.3.2 bye"}, map[string]State{a: Waiting, z: Waiting}, "421 4.3.2 bye"},
		"no enhanced code": {map[string]string{"RCPT TO:<a": "550 who"}, map[string]State{a: Failed, z: Delivered}, "550 5.0.0 who"},
		"login wanted":     {map[string]string{"MAIL": "530 5.7.0 log in"}, map[string]State{a: Waiting, z: Waiting}, "530 5.7.0 log in"},
		"rubbish":          {map[string]string{"MAIL": "hello"}, map[string]State{a: Waiting, z: Waiting}, "451 4.4.1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, Options{Relay: servers})
				b.other.reply = replies(c.reply)
				b.acc.set("hold@here.test", backend.ErrBusy)
				defer b.run()()
				b.accept("", a, z, "hold@here.test")
				synctest.Wait()
				for _, r := range b.q.List()[0].Recipients {
					if want, ok := c.states[r.Address]; ok && r.State != want {
						t.Errorf("%s: got %d (%s), want %d", r.Address, r.State, r.Reply, want)
					}
					if r.Address == a && !strings.HasPrefix(r.Reply, c.has) {
						t.Errorf("reply %q, want %q", r.Reply, c.has)
					}
				}
			})
		})
	}
}

// TestTooManyRecipients: a server that takes two at a time gets several
// transactions on one connection.
func TestTooManyRecipients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Relay: servers})
		n := 0
		b.other.reply = func(line string) string {
			switch {
			case strings.HasPrefix(line, "MAIL"):
				n = 0
			case strings.HasPrefix(line, "RCPT"):
				if n++; n > 2 {
					return "452 4.5.3 too many"
				}
			}
			return ""
		}
		defer b.run()()
		b.accept("", "1@out.test", "2@out.test", "3@out.test", "4@out.test", "5@out.test")
		synctest.Wait()
		if got := b.other.got(); len(got) != 3 || b.other.connections() != 1 || b.disk.queued() != 0 {
			t.Errorf("%d transactions over %d connections, left: %v", len(got), b.other.connections(), b.q.List())
		}
	})
}

func TestLMTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Proxies: []Server{{Address: "proxy.test:24", LMTP: true}}})
		b.other.lmtp = true
		b.other.reply = replies(map[string]string{". b@": "452 4.2.2 full", ". c@": "550 5.1.1 gone"})
		for _, who := range []string{"a", "b", "c"} {
			b.acc.set(who+"@here.test", backend.ErrMoved)
		}
		defer b.run()()
		b.accept("", "a@here.test", "b@here.test", "c@here.test")
		synctest.Wait()
		var got []State
		for _, r := range b.q.List()[0].Recipients {
			got = append(got, r.State)
		}
		if diff := cmp.Diff([]State{Delivered, Waiting, Failed}, got); diff != "" {
			t.Error(diff)
		}
	})
}

// TestNextServer: the second server is asked when the first is down.
func TestNextServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &remote{}
		var asked []string
		b := newBench(t, Options{Relay: []Server{{Address: "down.test:25"}, {Address: "up.test:25"}}})
		b.o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			asked = append(asked, address)
			if address == "down.test:25" {
				return nil, errors.New("refused")
			}
			return up.dial(ctx, network, address)
		}
		b.open()
		defer b.run()()
		b.accept("", "a@out.test")
		synctest.Wait()
		if len(up.got()) != 1 || len(asked) != 2 || b.disk.queued() != 0 {
			t.Errorf("asked %v, left: %v", asked, b.q.List())
		}
	})
}

// TestHangingRelay: a relay that says nothing keeps its own lane busy, nobody
// else; it is given up after the deadline, and cut off by the end of Run.
func TestHangingRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		b := newBench(t, Options{Relay: servers, Concurrency: 1, CommandTime: 3 * time.Minute})
		b.other.reply = func(line string) string {
			if strings.HasPrefix(line, "MAIL") {
				<-hang
				return "close"
			}
			return ""
		}
		stop := b.run()
		b.accept("", "1@out.test")
		b.accept("", "2@out.test")
		b.accept("", "anna@here.test")
		synctest.Wait()
		if len(b.disk.box("anna@here.test")) != 1 {
			t.Error("local mail waits for the relay")
		}
		if b.other.connections() != 1 {
			t.Errorf("%d connections, want 1", b.other.connections())
		}
		pass(3*time.Minute + time.Second)
		first := b.q.List()[0].Recipients[0]
		if first.Attempts != 1 || !strings.HasPrefix(first.Reply, "451 4.4.1") || b.other.connections() != 2 {
			t.Errorf("behind the deadline: %+v, %d connections", first, b.other.connections())
		}
		stop()
		if second := b.q.List()[1].Recipients[0]; second.Attempts != 0 {
			t.Errorf("the end of Run counted as an attempt: %+v", second)
		}
		close(hang)
	})
}

// report reads the one message in a mailbox as a delivery report.
func report(t *testing.T, b *bench, account string) (header mail.Header, parts map[string]string) {
	t.Helper()
	box := b.disk.box(account)
	if len(box) != 1 {
		t.Fatalf("%d messages for %s: %q", len(box), account, box)
	}
	m, err := mail.ReadMessage(strings.NewReader(box[0]))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Fatalf("%s %v, %v", kind, params, err)
	}
	parts = make(map[string]string)
	mr := multipart.NewReader(m.Body, params["boundary"])
	for {
		p, err := mr.NextRawPart()
		if err == io.EOF {
			return m.Header, parts
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := io.ReadAll(p)
		kind, _, _ := strings.Cut(p.Header.Get("Content-Type"), ";")
		parts[kind] = string(raw)
	}
}

func TestReport(t *testing.T) {
	for _, ret := range []string{"", "HDRS", "FULL"} {
		t.Run(ret, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, Options{Relay: servers})
				b.other.reply = replies(map[string]string{"RCPT TO:<z": "550 5.7.1 go away"})
				defer b.run()()
				env := Envelope{From: "anna@here.test", Return: ret, ID: "env-7", To: []To{
					{Address: "no@here.test", Original: "rfc822;NO@here.test"}, {Address: "z@out.test", Notify: []string{"SUCCESS", "FAILURE"}},
					{Address: "quiet@here.test", Notify: []string{"NEVER"}}, {Address: "slow@here.test", Notify: []string{"DELAY"}}}}
				if _, err := b.q.Accept(context.Background(), env, strings.NewReader(mailText), int64(len(mailText))); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				// Local and relay are separate attempts, so there may be two reports.
				box := b.disk.box("anna@here.test")
				all := strings.Join(box, "")
				for _, want := range []string{"Return-Path: <>\r\n", "Final-Recipient: rfc822; no@here.test\r\n", "Final-Recipient: rfc822; z@out.test\r\n",
					"Original-Recipient: rfc822;NO@here.test\r\n", "Original-Envelope-Id: env-7\r\n", "Status: 5.1.1\r\n", "Status: 5.7.1\r\n",
					"Action: failed\r\n", "Remote-MTA: dns; proxy.test:25\r\n", "Diagnostic-Code: smtp; 550 5.7.1 go away\r\n",
					"Auto-Submitted: auto-replied\r\n", "Reporting-MTA: dns; b1a.here.test\r\n"} {
					if !strings.Contains(all, want) {
						t.Errorf("no %q in\n%s", want, all)
					}
				}
				if strings.Contains(all, "quiet") || strings.Contains(all, "slow") {
					t.Errorf("reported who is not to be reported:\n%s", all)
				}
				if got := strings.Contains(all, "body"); got != (ret == "FULL") {
					t.Errorf("RET=%s: body returned: %v", ret, got)
				}
				if b.disk.queued() != 0 {
					t.Errorf("left in the queue: %v", b.q.List())
				}
			})
		})
	}
}

// TestGivenUp: the report of a recipient that was given up.
func TestGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		b.acc.set("ben@here.test", lookup.Unavailable("dial", errors.New("refused")))
		defer b.run()()
		b.accept("anna@here.test", "ben@here.test")
		pass(6 * 24 * time.Hour)
		header, parts := report(t, b, "anna@here.test")
		if got := header.Get("To"); got != "<anna@here.test>" {
			t.Errorf("To: %s", got)
		}
		if got := parts["message/delivery-status"]; !strings.Contains(got, "Status: 4.4.7\r\n") {
			t.Errorf("status:\n%s", got)
		}
		if got := parts["text/rfc822-headers"]; !strings.HasPrefix(got, "Message-ID: <1@here.test>\r\nSubject: x") || strings.Contains(got, "body") {
			t.Errorf("header:\n%s", got)
		}
		if got := parts["text/plain"]; !strings.Contains(got, "ben@here.test\r\n    451 4.4.7 given up") {
			t.Errorf("text:\n%s", got)
		}
		if b.disk.queued() != 0 {
			t.Errorf("left in the queue: %v", b.q.List())
		}
	})
}

// TestNoReportOfReports: a report that cannot be delivered ends there.
func TestNoReportOfReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		defer b.run()()
		b.accept("nobody@here.test", "no@here.test")
		synctest.Wait()
		if b.disk.queued() != 0 || b.disk.last != 2 {
			t.Errorf("%d entries were made, left: %v", b.disk.last, b.q.List())
		}
	})
}

// TestDamagedBody: a message that cannot be read any more is reported too.
func TestDamagedBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{GiveUp: time.Hour})
		id := b.accept("anna@here.test", "ben@here.test")
		delete(b.disk.bodies, id)
		defer b.run()()
		pass(2 * time.Hour)
		_, parts := report(t, b, "anna@here.test")
		if got := parts["message/delivery-status"]; !strings.Contains(got, "ben@here.test") || b.disk.queued() != 0 {
			t.Errorf("status:\n%s", got)
		}
	})
}

func TestConcurrencyBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Concurrency: 3})
		var mu sync.Mutex
		now, most := 0, 0
		b.disk.deliver = func(string) error {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			return nil
		}
		defer b.run()()
		for range 10 {
			b.accept("", "anna@here.test")
		}
		pass(time.Minute)
		if most != 3 || b.disk.queued() != 0 {
			t.Errorf("%d at a time, want 3; left %d", most, b.disk.queued())
		}
	})
}

func TestFull(t *testing.T) {
	b := newBench(t, Options{MaxEntries: 2})
	b.accept("", "anna@here.test")
	b.accept("", "anna@here.test")
	_, err := b.q.Accept(context.Background(), Envelope{To: []To{{Address: "anna@here.test"}}}, strings.NewReader(""), 0)
	if !errors.Is(err, backend.ErrBusy) {
		t.Errorf("got %v", err)
	}
}

// TestCrash stops the node before and after each change that it makes durable,
// and starts it again: what was accepted is delivered or reported, once.
func TestCrash(t *testing.T) {
	points := 0
	for n := 1; ; n++ {
		crashed := false
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, Options{Proxies: servers, Relay: servers})
			b.other.reply = replies(map[string]string{"RCPT TO:<bad": "550 5.1.1 who"})
			b.acc.set("far@here.test", backend.ErrMoved)
			b.acc.set("eve@here.test", nil)
			count := 0
			b.disk.trip = func() bool {
				count++
				crashed = count >= n
				return crashed
			}
			stop := b.run()
			env := Envelope{From: "eve@here.test", To: []To{{Address: "anna@here.test"}, {Address: "far@here.test"}, {Address: "bad@out.test"}, {Address: "no@here.test"}, {Address: "ben@here.test"}}}
			_, err := b.q.Accept(context.Background(), env, strings.NewReader(mailText), int64(len(mailText)))
			pass(time.Minute)
			stop()
			b.open()
			stop = b.run()
			pass(time.Hour)
			stop()
			if b.disk.queued() != 0 {
				t.Fatalf("crash %d: left in the queue: %v", n, b.q.List())
			}
			boxes := fmt.Sprint(len(b.disk.box("anna@here.test")), len(b.disk.box("ben@here.test")))
			if boxes != "1 1" && !(err != nil && boxes == "0 0") {
				t.Errorf("crash %d: accepted %v; anna and ben got %s", n, err, boxes)
			}
			failures := strings.Join(b.disk.box("eve@here.test"), "")
			for _, who := range []string{"no@here.test", "bad@out.test"} {
				if got := strings.Count(failures, "Final-Recipient: rfc822; "+who); got != 1 && !(err != nil && got == 0) {
					t.Errorf("crash %d: %s was reported %d times", n, who, got)
				}
			}
			// The other servers know a retry by its delivery id; here it shows.
			far := 0
			for _, m := range b.other.got() {
				if m.to[0] == "far@here.test" {
					far++
				}
			}
			if err == nil && far < 1 || far > 2 {
				t.Errorf("crash %d: the proxy got it %d times", n, far)
			}
		})
		if !crashed {
			break
		}
		points++
	}
	if points < 20 {
		t.Errorf("only %d crash points", points)
	}
}

// TestSettleAgain: a disk that fails for a while, before or behind the change,
// makes nothing be delivered twice and loses nothing.
func TestSettleAgain(t *testing.T) {
	for name, made := range map[string]bool{"before": false, "behind": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, Options{Relay: servers})
				defer b.run()()
				b.other.reply = func(line string) string {
					if strings.HasPrefix(line, ".") { // it fails once the message is handed over
						calls := 0
						b.disk.mu.Lock()
						b.disk.trip = func() bool { calls++; return !made || calls > 1 }
						b.disk.mu.Unlock()
					}
					return ""
				}
				b.accept("", "b@out.test")
				pass(time.Minute)
				if b.q.Len() != 1 {
					t.Fatal("deleted by a dead disk")
				}
				b.disk.mu.Lock()
				b.disk.trip, b.disk.dead = nil, false
				b.disk.mu.Unlock()
				pass(time.Minute)
				if got := b.other.got(); len(got) != 1 || b.disk.queued() != 0 || b.q.Len() != 0 {
					t.Errorf("handed over %d times, left %d", len(got), b.q.Len())
				}
			})
		})
	}
}

func TestUTF8NeedsAServerThatTakesIt(t *testing.T) {
	for offered, want := range map[bool]int{true: 1, false: 0} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, Options{Relay: servers})
			if offered {
				b.other.ehlo = []string{"SMTPUTF8", "8BITMIME"}
			}
			defer b.run()()
			env := Envelope{UTF8: true, To: []To{{Address: "jörg@out.test"}}}
			if _, err := b.q.Accept(context.Background(), env, strings.NewReader(mailText), int64(len(mailText))); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := len(b.other.got()); got != want || b.disk.queued() != 0 {
				t.Errorf("offered %v: sent %d, left %v", offered, got, b.q.List())
			}
		})
	}
}

func TestDSNParametersPassOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Relay: servers})
		b.other.ehlo = []string{"DSN"}
		var lines []string
		b.other.reply = func(line string) string { lines = append(lines, line); return "" }
		defer b.run()()
		env := Envelope{From: "anna@here.test", Return: "HDRS", ID: "x=1", To: []To{{Address: "a@out.test", Notify: []string{"FAILURE", "DELAY"}, Original: "rfc822;A@out.test"}}}
		if _, err := b.q.Accept(context.Background(), env, strings.NewReader(mailText), int64(len(mailText))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		want := []string{"MAIL FROM:<anna@here.test> RET=HDRS ENVID=x+3D1", "RCPT TO:<a@out.test> NOTIFY=FAILURE,DELAY ORCPT=RFC822;A@out.test"}
		if diff := cmp.Diff(want, lines[:2]); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAddresses(t *testing.T) {
	b := newBench(t, Options{})
	for address, want := range map[string]bool{"a@here.test": true, "a@HERE.test": true, "postmaster": true, "a@out.test": false, `"a@here.test"@out.test`: false} {
		if got := b.q.IsLocal(address); got != want {
			t.Errorf("IsLocal(%s): got %v", address, got)
		}
	}
	for address, want := range map[string]string{"a+b@x": "a@x", "a+b+c@x": "a@x", "a@x": "", "+b@x": "", "a+b": "a", "a@x+y": ""} {
		got, found := WithoutDetail(address)
		if found != (want != "") || found && got != want {
			t.Errorf("WithoutDetail(%s): got %q, %v", address, got, found)
		}
	}
}

// FuzzDecode: a damaged entry is an error, never a panic, and what is read
// can be written again.
func FuzzDecode(f *testing.F) {
	e := newEntry(Envelope{From: "a@x", To: []To{{Address: "b@y", Notify: []string{"NEVER"}}}}, time.Unix(1, 0), func(string) Lane { return LaneRelay })
	f.Add(e.encode())
	f.Add([]byte(`{"Version":1,"Recipients":[{"Lane":9}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := decode(1, raw)
		if err != nil {
			return
		}
		again, err := decode(1, e.encode())
		if err != nil || len(again.Recipients) != len(e.Recipients) {
			t.Fatalf("%v: %+v", err, again)
		}
	})
}
