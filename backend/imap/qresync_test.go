package imap

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"switchyard/backend"
)

// cache is what a client of QRESYNC keeps of a mailbox between its visits.
type cache struct {
	*raw
	f        *fixture
	flags    map[int]string // by UID
	modSeq   int            // the last HIGHESTMODSEQ that it was told
	validity string
	exists   int // as EXISTS and VANISHED tell, while connected
	next     int // all messages below this UID are known
}

var (
	highest  = regexp.MustCompile(`\[HIGHESTMODSEQ (\d+)\]`)
	validity = regexp.MustCompile(`\[UIDVALIDITY (\d+)\]`)
	vanished = regexp.MustCompile(`^\* VANISHED (\(EARLIER\) )?([0-9,:]+)$`)
	known    = regexp.MustCompile(`^\* \d+ (?:UID)?FETCH \(.*$`)
	uidFetch = regexp.MustCompile(`^\* (\d+) UIDFETCH `)
)

// run runs a command. Messages that are new are
// fetched at once: HIGHESTMODSEQ covers them.
func (c *cache) run(command string) {
	c.Helper()
	c.step(command)
	for uid := range c.flags {
		if c.exists == len(c.flags) {
			c.next = max(c.next, uid+1)
		}
	}
	if c.exists > len(c.flags) && !strings.HasSuffix(command, ":* FLAGS") {
		c.run(fmt.Sprintf("UID FETCH %d:* FLAGS", c.next))
	}
}

// step runs a command and learns from the answer.
func (c *cache) step(command string) {
	c.Helper()
	c.send("x " + command + "\r\n")
	for line := ""; !strings.HasPrefix(line, "x "); {
		line = c.line()
		c.learn(line)
	}
}

func (c *cache) learn(line string) {
	c.Helper()
	if m := highest.FindStringSubmatch(line); m != nil {
		c.modSeq, _ = strconv.Atoi(m[1])
	}
	if m := validity.FindStringSubmatch(line); m != nil {
		c.validity = m[1]
	}
	if strings.HasSuffix(line, " EXPUNGE") {
		c.Fatalf("got %q with QRESYNC", line)
	}
	if words := strings.Fields(line); len(words) == 3 && words[2] == "EXISTS" {
		c.exists, _ = strconv.Atoi(words[1])
	}
	if m := vanished.FindStringSubmatch(line); m != nil {
		for uid := range uidsOf(m[2]) {
			delete(c.flags, uid)
			if m[1] == "" {
				c.exists--
			}
		}
		return
	}
	if !known.MatchString(line) {
		return
	}
	uid := fetchedUID.FindStringSubmatch(line)
	if u := uidFetch.FindStringSubmatch(line); u != nil {
		uid = u
	}
	if f := fetchedFlags.FindStringSubmatch(line); f != nil && uid != nil {
		n, _ := strconv.Atoi(uid[1])
		c.flags[n] = f[1]
	}
}

func uidsOf(set string) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for part := range strings.SplitSeq(set, ",") {
			from, to, found := strings.Cut(part, ":")
			if !found {
				to = from
			}
			a, _ := strconv.Atoi(from)
			b, _ := strconv.Atoi(to)
			for n := a; n <= b; n++ {
				if !yield(n) {
					return
				}
			}
		}
	}
}

// open connects and catches up, in one of the ways that a client can.
func (c *cache) open(random *rand.Rand) {
	c.Helper()
	c.raw = connect(c.TB, c.f)
	c.do("LOGIN ada@example.test secret", "OK")
	c.do("ENABLE QRESYNC"+[]string{"", " UIDONLY", " IMAP4rev2"}[random.IntN(3)], "OK")
	if random.IntN(3) == 0 {
		c.do("COMPRESS DEFLATE", "OK")
		cl := compressed(c, &client{c.Conn, c.r})
		c.raw = &raw{c.TB, cl.Conn, cl.r}
	}
	since := c.modSeq
	switch {
	case c.validity == "" || since == 0:
		c.run("SELECT INBOX")
	case random.IntN(2) == 0:
		args := fmt.Sprintf("%s %d", c.validity, since)
		if len(c.flags) > 0 && random.IntN(2) == 0 {
			args += " 1:4294967295" // and new ones
		}
		c.run("SELECT INBOX (QRESYNC (" + args + "))")
	default:
		c.step("SELECT INBOX")
		c.run(fmt.Sprintf("UID FETCH 1:* FLAGS (CHANGEDSINCE %d VANISHED)", since))
	}
}

// TestCacheAgrees lets clients come and go while mail is changed by others and
// by them. When one has caught up, what it has cached must be what a fresh
// look at the mailbox finds, and the count of messages must be right.
func TestCacheAgrees(t *testing.T) {
	f := start(t, Options{})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	u := f.user(t, "ada")
	clients := []*cache{{f: f, flags: map[int]string{}, next: 1}, {f: f, flags: map[int]string{}, next: 1}}
	for i := range 200 {
		c := clients[random.IntN(len(clients))]
		c.raw = &raw{TB: t}
		c.open(random)
		c.agrees(t, u)
		for range random.IntN(4) {
			c.act(random)
			others(t, f, u, random)
		}
		if i%3 == 0 {
			c.run("NOOP")
			c.agrees(t, u)
		}
		c.Close() // without a word: the cache must survive it
	}
}

// act does something that a client does.
func (c *cache) act(random *rand.Rand) {
	c.Helper()
	uid := 1
	if len(c.flags) > 0 {
		uid = slices.Sorted(func(yield func(int) bool) {
			for n := range c.flags {
				if !yield(n) {
					return
				}
			}
		})[random.IntN(len(c.flags))]
	}
	flag := []string{`\Seen`, `\Flagged`, `$One`, `\Deleted`}[random.IntN(4)]
	switch random.IntN(7) {
	case 0:
		c.run(fmt.Sprintf("UID STORE %d +FLAGS (%s)", uid, flag))
	case 1:
		c.run("EXPUNGE")
	case 2:
		c.run(fmt.Sprintf("UID MOVE %d Archive", uid))
	case 3:
		c.run(fmt.Sprintf("UID COPY %d INBOX", uid))
	case 4:
		c.run("UID SEARCH UNSEEN")
	case 5:
		c.run("FETCH 1:* FLAGS") // holds expunges back, or is BAD
	default:
		c.run(fmt.Sprintf("UID REPLACE %d INBOX {9+}\r\nA: b\r\n\r\nx", uid))
	}
}

// others changes the mailbox past the server.
func others(t *testing.T, f *fixture, u backend.User, random *rand.Rand) {
	t.Helper()
	mailbox, err := u.Mailbox(t.Context(), "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	n := backend.UID(1 + random.IntN(int(mailbox.UIDNext)))
	switch random.IntN(5) {
	case 0, 1:
		f.append(t, "ada", "INBOX", "Subject: random\r\n\r\nbody\r\n")
	case 2:
		_, _, err = u.SetFlags(t.Context(), mailbox.ID, []backend.UID{n}, backend.FlagChange{Op: backend.FlagsAdd, Flags: []string{`\Flagged`}})
	case 3:
		_, err = u.Expunge(t.Context(), mailbox.ID, []backend.UID{n, n + 1}, false)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// agrees compares the cache with the mailbox.
func (c *cache) agrees(t *testing.T, u backend.User) {
	t.Helper()
	mailbox, err := u.Mailbox(t.Context(), "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	view, err := u.View(t.Context(), mailbox.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := map[int]string{}
	for _, m := range view.Messages.All() {
		want[int(m.UID)] = strings.Join(m.Flags, " ")
	}
	if fmt.Sprint(want) != fmt.Sprint(c.flags) || c.exists != len(want) {
		t.Fatalf("the cache holds %v and counts %d, the mailbox %v", c.flags, c.exists, want)
	}
}
