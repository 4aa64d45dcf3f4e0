package smtp

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/internal/tlsconf"
	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/routertest"
	"switchyard/router/upstream"
)

// fate is what becomes of a message at a backend, in one attempt: at which step,
// and what happens there.
type fate struct{ step, what string }

// fates are all of them: at each step a yes, a "not now", a no, a lost connection,
// and an answer that does not come in time; at the last one the message is stored, or
// not, before the connection is lost or the time over, or when the proxy has long
// given up and the sender has come back.
var fates = []fate{
	{"dial", "refused"}, {"dial", "slow"},
	{"hello", "4xx"}, {"hello", "5xx"}, {"hello", "lost"}, {"hello", "slow"},
	{"mail", "4xx"}, {"mail", "5xx"}, {"mail", "lost"}, {"mail", "slow"},
	{"rcpt", "4xx"}, {"rcpt", "5xx"}, {"rcpt", "lost"}, {"rcpt", "slow"},
	{"data", "4xx"}, {"data", "5xx"}, {"data", "lost"}, {"data", "slow"},
	{"body", "lost"}, {"body", "slow"},
	{"end", "2xx"}, {"end", "4xx"}, {"end", "5xx"},
	{"end", "lost before"}, {"end", "lost after"}, {"end", "slow before"}, {"end", "slow after"}, {"end", "slow long after"},
}

var good = fate{"end", "2xx"}

// early reports whether the fate comes before the message: then nobody keeps it.
func (f fate) early() bool { return f.step != "data" && f.step != "body" && f.step != "end" }

func (f fate) String() string { return f.step + " " + f.what }

// stores reports whether the message is stored.
func (f fate) stores() bool {
	return f.step == "end" && (f.what == "2xx" || strings.HasSuffix(f.what, "after"))
}

// unreliable is a backend in memory that suffers fates. With delivery ids it stores
// nothing twice.
type unreliable struct {
	name    string
	foreign bool

	fate   fate
	report fate // that of a report, in its queue

	mu      sync.Mutex     // for what comes long after
	copies  map[string]int // stored, by recipient
	ids     map[[32]byte]bool
	reports []string
	sent    int // times that the body came
}

// dial is an upstream's Dial.
func (u *unreliable) dial() (net.Conn, error) {
	if u.fate == (fate{"dial", "refused"}) {
		return nil, errors.New("connection refused")
	}
	proxy, conn := net.Pipe()
	go u.serve(conn)
	return proxy, nil
}

// serve speaks LMTP. It ends when the proxy hangs up.
func (u *unreliable) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	say := func(lines ...string) { io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n") }
	// suffer reports whether the fate has struck, and whether the connection is over.
	suffer := func(f fate, step string) (struck, over bool) {
		if f.step != step {
			return false, false
		}
		switch {
		case strings.HasPrefix(f.what, "lost"):
			return true, true
		case strings.HasPrefix(f.what, "slow"):
			io.Copy(io.Discard, r) // until the proxy hangs up
			return true, true
		case f.what == "4xx":
			say("451 4.2.0 not now")
		case f.what == "5xx":
			say("554 5.6.0 no")
		default:
			return false, false
		}
		return true, false
	}
	if u.fate.step == "dial" {
		io.Copy(io.Discard, r)
		return
	}
	say("220 " + u.name + " LMTP")
	var from string
	var to []string
	var trace int
	begun := false // behind a MAIL that was answered yes
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		verb, rest, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		now := u.fate
		switch verb {
		case "LHLO":
			if struck, over := suffer(now, "hello"); over {
				return
			} else if struck {
				continue
			}
			if u.foreign {
				say("250-"+u.name, "250 PIPELINING")
			} else {
				say("250-"+u.name, "250-PIPELINING", "250-8BITMIME", "250-DSN", "250-AUTH PLAIN", "250-XRCPTFORWARD", "250-XTRACELEN", "250 XRELAY")
			}
		case "AUTH":
			say("235 2.7.0 ok")
		case "MAIL":
			from, to, trace, begun = between(rest), nil, 0, false
			if _, n, ok := strings.Cut(rest, "XTRACELEN="); ok {
				trace, _ = strconv.Atoi(strings.Fields(n)[0])
			}
			if from == "" { // the senders of these tests have names
				now = u.report
			}
			if struck, over := suffer(now, "mail"); over {
				return
			} else if !struck {
				begun = true
				say("250 2.1.0 ok")
			}
		case "RCPT":
			if !begun {
				say("503 5.5.1 no sender")
				continue
			}
			if strings.HasSuffix(rest, "XRELAY") {
				now = u.report
			}
			if struck, over := suffer(now, "rcpt"); over {
				return
			} else if !struck {
				to = append(to, between(rest))
				say("250 2.1.5 ok")
			}
		case "DATA":
			if from == "" {
				now = u.report
			}
			if struck, over := suffer(now, "data"); over {
				return
			} else if struck {
				continue
			}
			say("354 go")
			if now.step == "body" {
				r.ReadByte() // and what one read brings with it
				if now.what == "slow" {
					conn.Write([]byte("2")) // waits for the proxy to read, which is writing
					io.Copy(io.Discard, r)
				}
				return
			}
			body, err := readBody(r)
			if err != nil {
				return
			}
			if from != "" {
				u.sent++
			}
			for range to[1:] { // these tests have one recipient at each backend
				panic("more than one recipient")
			}
			if now.what == "slow long after" {
				io.Copy(io.Discard, r)
				time.Sleep(comeBack + comeBack/2)
			}
			if now.stores() {
				u.store(from, to[0], body, trace)
			}
			if struck, over := suffer(now, "end"); over {
				return
			} else if !struck {
				say("250 2.0.0 stored")
			}
		case "QUIT":
			return
		default:
			say("250 2.0.0 ok")
		}
	}
}

func (u *unreliable) store(from, to, body string, trace int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.foreign {
		id := sha256.Sum256([]byte(from + "\x00" + to + "\x00" + body[trace:]))
		if u.ids[id] {
			return
		}
		u.ids[id] = true
	}
	if from == "" {
		u.reports = append(u.reports, body)
	} else {
		u.copies[to]++
	}
}

func between(s string) string {
	_, s, _ = strings.Cut(s, "<")
	s, _, _ = strings.Cut(s, ">")
	return s
}

func readBody(r *bufio.Reader) (string, error) {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil || line == ".\r\n" {
			return b.String(), err
		}
		b.WriteString(strings.TrimPrefix(line, "."))
	}
}

// pipes is a net.Listener in memory.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error {
	select {
	case <-p.done:
	default:
		close(p.done)
	}
	return nil
}

func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func (p pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// outcomeWorld is two proxies in front of unreliable backends, each with one
// account: u1@example.test at b1 and so on.
type outcomeWorld struct {
	t       *testing.T
	lmtp    bool
	stores  []*unreliable
	proxies [2]pipes
}

func newOutcomeWorld(t *testing.T, lmtp bool, n int) *outcomeWorld {
	w := &outcomeWorld{t: t, lmtp: lmtp}
	d := routertest.NewDirectory()
	var backends []upstream.Backend
	for i := range n {
		name := fmt.Sprint("b", i+1)
		w.stores = append(w.stores, &unreliable{name: name, fate: good, report: good, copies: make(map[string]int), ids: make(map[[32]byte]bool)})
		backends = append(backends, upstream.Backend{Name: name, Nodes: []upstream.Node{{Name: name + "a",
			Services: map[upstream.Service]upstream.Endpoint{upstream.LMTP: {Address: name + ":24", TLS: tlsconf.Off}}}}})
		d.Add(lookup.Account{Name: w.address(i), Home: name}, "")
	}
	for i := range w.proxies {
		w.proxies[i] = pipes{make(chan net.Conn), make(chan struct{})}
		make := NewInbound
		o := inboundOptions
		if lmtp {
			make, o.Deliverers = NewLMTP, Deliverers{Name: "filter", Secret: "sieve"}
		}
		p, err := make(o)
		if err != nil {
			t.Fatal(err)
		}
		routertest.Start(t, routertest.Config{
			Protocol: p, Directory: d, Backends: backends, Net: w.proxies[i],
			Listener: router.Listener{AllowCleartextLogin: true},
			Options:  router.Options{DefaultDomain: "example.test", Hostname: fmt.Sprintf("px%d.example.test", i+1)},
			Upstream: upstream.Options{Dial: func(_ context.Context, _, address string) (net.Conn, error) {
				return w.stores[address[1]-'1'].dial()
			}},
		})
	}
	return w
}

func (w *outcomeWorld) address(i int) string { return fmt.Sprintf("u%d@example.test", i+1) }

// outcomeMessage is too long to be written at once.
var outcomeMessage = "Message-ID: <1@far.test>\r\nSubject: x\r\n\r\n" + strings.Repeat("body\r\n", 800)

// comeBack is when a sender who was put off comes back.
const comeBack = 20 * time.Minute

// send sends the message by one of the proxies to some recipients and returns how
// each was answered: 2, 4 or 5.
func (w *outcomeWorld) send(proxy int, to []int) (answers map[int]byte) {
	w.t.Helper()
	conn := w.proxies[proxy].dial()
	defer conn.Close()
	r := bufio.NewReader(conn)
	reply := func() byte {
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				w.t.Fatalf("the proxy hangs up: %v", err)
			}
			if line[3] == ' ' {
				return line[0]
			}
		}
	}
	say := func(line string) byte {
		if _, err := io.WriteString(conn, line+"\r\n"); err != nil {
			w.t.Fatalf("the proxy hangs up: %v", err)
		}
		return reply()
	}
	reply()
	if w.lmtp {
		say("LHLO filter.test")
		say("AUTH PLAIN AGZpbHRlcgBzaWV2ZQ==") // filter, sieve
	} else {
		say("EHLO far.test")
	}
	say("MAIL FROM:<x@far.test>")
	answers = make(map[int]byte)
	var taken []int
	for _, i := range to {
		answers[i] = say("RCPT TO:<" + w.address(i) + ">")
		if answers[i] == '2' {
			taken = append(taken, i)
		}
	}
	if len(taken) > 0 {
		say("DATA")
		answer := say(outcomeMessage + ".")
		for n, i := range taken {
			if w.lmtp && n > 0 {
				answer = reply()
			}
			answers[i] = answer
		}
	}
	say("QUIT")
	return answers
}

// predict says what the answers must be, by the rules and not by the code.
func (w *outcomeWorld) predict(to []int) map[int]byte {
	answers := make(map[int]byte)
	var taken []int
	for _, i := range to {
		switch f := w.stores[i].fate; {
		case (f.step == "mail" || f.step == "rcpt") && f.what == "5xx":
			answers[i] = '5'
		case f.early():
			answers[i] = '4'
		default:
			taken = append(taken, i)
		}
	}
	var own, foreign []int
	for _, i := range taken {
		if w.stores[i].foreign {
			foreign = append(foreign, i)
		} else {
			own = append(own, i)
		}
	}
	said := func(i int) byte {
		switch f := w.stores[i].fate; {
		case f.what == "2xx":
			return '2'
		case f.what == "5xx":
			return '5'
		}
		return '4'
	}
	if w.lmtp {
		for _, i := range taken {
			answers[i] = said(i)
		}
		return answers
	}
	yes, no, later := 0, 0, 0
	for _, i := range own {
		switch said(i) {
		case '2':
			yes++
		case '5':
			no++
		default:
			later++
		}
	}
	// A report goes to who has the message, or else to nobody: there is no default
	// backend here. When it is not known whether one has it, no other is asked.
	reported := func() bool {
		for _, i := range own {
			if said(i) != '2' {
				continue
			}
			switch r := w.stores[i].report; {
			case r.what == "2xx":
				return true
			case !r.early() && r.what != "4xx" && r.what != "5xx":
				return false
			}
		}
		return false
	}
	answer := byte('4')
	switch {
	case later > 0:
	case len(foreign) == 0 && no == 0:
		answer = '2'
	case yes == 0 && no > 0:
		answer = '5'
	case no > 0 && !reported():
	case len(foreign) == 0:
		answer = '2'
	default:
		if answer = said(foreign[0]); answer == '5' && yes > 0 {
			answer = '4'
			if reported() {
				answer = '2'
			}
		}
	}
	for _, i := range taken {
		answers[i] = answer
	}
	return answers
}

// reportsOf counts the reports that name a recipient.
func (w *outcomeWorld) reportsOf(i int) (n int) {
	for _, u := range w.stores {
		for _, r := range u.reports {
			n += strings.Count(r, "Final-Recipient: rfc822; "+w.address(i)+"\r\n")
		}
	}
	return n
}

// play is a sender's life: an attempt in which the backends suffer their fates, and
// attempts by this proxy or that until everybody has answered for good. In those the
// backends are well, but for who refuses the message: that one keeps doing so.
func (w *outcomeWorld) play(retry int, fates ...fate) {
	w.t.Helper()
	var to []int
	for i, f := range fates {
		w.stores[i].fate = f
		to = append(to, i)
	}
	last := make(map[int]byte)
	told := make(map[int]bool) // the sender knows that it was refused
	unknown := make(map[int]bool)
	for attempt := range 3 {
		want := w.predict(to)
		proxy := 0
		if attempt > 0 {
			proxy = retry
		}
		before := make(map[int]int)
		for _, i := range to {
			before[i] = w.stores[i].sent
		}
		got := w.send(proxy, to)
		synctest.Wait()
		var left []int
		for _, i := range to {
			if got[i] != want[i] {
				w.t.Errorf("attempt %d: %s was answered %cxx, want %cxx", attempt+1, w.address(i), got[i], want[i])
			}
			last[i] = got[i]
			switch got[i] {
			case '4':
				left = append(left, i)
				if w.stores[i].foreign && strings.HasSuffix(w.stores[i].fate.what, "after") && w.stores[i].sent > before[i] {
					unknown[i] = true
				}
			case '5':
				told[i] = true
			}
		}
		to = left
		for _, u := range w.stores {
			u.report = good
			if !strings.HasSuffix(u.fate.what, "5xx") || u.fate.early() {
				u.fate = good
			}
		}
		time.Sleep(comeBack)
		if len(to) == 0 {
			break
		}
	}
	time.Sleep(comeBack) // what comes long after has come
	synctest.Wait()
	for i, u := range w.stores[:len(fates)] {
		copies, reports := u.copies[w.address(i)], w.reportsOf(i)
		switch {
		case last[i] == '4':
			w.t.Errorf("%s was never answered for good", w.address(i))
		case told[i] && (copies != 0 || reports != 0):
			w.t.Errorf("%s was refused, and has %d copies and %d reports", w.address(i), copies, reports)
		case !told[i] && unknown[i] && copies == 2:
			// A foreign backend that has it and did not say so.
		case !told[i] && copies+reports != 1:
			w.t.Errorf("%s was accepted, and has %d copies and %d reports", w.address(i), copies, reports)
		case reports == 1 && u.fate.what != "5xx":
			w.t.Errorf("%s is reported and refused nothing", w.address(i))
		}
	}
}

// TestOutcomes: whatever one backend does at any step, and another at any other, each
// recipient of a message that was accepted in the end has it once, or the sender has
// one report, however the sender came back; and each answer is the one that the rules
// have. All pairs of fates, by SMTP and LMTP, with a foreign backend and without,
// with a queue that fails in its turn; and three backends. The retry comes by the same
// proxy and by the other, and in short runs, of which each has other cases, by turns.
func TestOutcomes(t *testing.T) {
	const share = 10 // of so many cases is in a short run
	turn := 0
	run := func(t *testing.T, lmtp bool, n int, setUp func(*outcomeWorld), fates ...fate) {
		turn++
		for retry := range 2 {
			if testing.Short() && turn%(2*share) != retry*share {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				w := newOutcomeWorld(t, lmtp, n)
				setUp(w)
				w.play(retry, fates...)
				if t.Failed() {
					t.Fatalf("lmtp %v, fates %v, retry by proxy %d", lmtp, fates, retry+1)
				}
			})
		}
	}
	for _, one := range fates {
		for _, two := range fates {
			for name, c := range map[string]struct {
				lmtp  bool
				setUp func(*outcomeWorld)
			}{
				"smtp":    {false, func(*outcomeWorld) {}},
				"lmtp":    {true, func(*outcomeWorld) {}},
				"foreign": {false, func(w *outcomeWorld) { w.stores[1].foreign = true }},
			} {
				t.Run(name, func(t *testing.T) { run(t, c.lmtp, 2, c.setUp, one, two) })
			}
		}
	}
	for _, report := range fates {
		if report.step == "dial" || report.step == "hello" {
			continue // the leg is open
		}
		t.Run("report "+report.String(), func(t *testing.T) {
			setUp := func(w *outcomeWorld) { w.stores[0].report = report }
			run(t, false, 2, setUp, good, fate{"end", "5xx"})
			run(t, false, 3, setUp, good, fate{"data", "5xx"}, good)
		})
	}
	few := []fate{good, {"end", "4xx"}, {"end", "5xx"}, {"end", "lost after"}, {"end", "slow long after"},
		{"body", "slow"}, {"data", "5xx"}, {"data", "slow"}, {"rcpt", "4xx"}, {"rcpt", "5xx"}, {"rcpt", "slow"}, {"dial", "refused"}}
	for _, one := range few {
		for _, two := range few {
			for _, three := range few {
				t.Run("three", func(t *testing.T) { run(t, false, 3, func(*outcomeWorld) {}, one, two, three) })
			}
		}
	}
}
