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

// mirror is what a client knows of its mailbox from untagged data alone.
type mirror struct {
	*raw
	name  string
	known []mirrored
}

type mirrored struct {
	uid   string // "" until a FETCH told it
	flags string // "?" until a FETCH told them
}

var fetched = regexp.MustCompile(`^\* (\d+) FETCH \((.*)\)$`)
var fetchedUID = regexp.MustCompile(`UID (\d+)`)
var fetchedFlags = regexp.MustCompile(`FLAGS \(([^)]*)\)`)

// run runs a command and learns from the answer. noExpunge says that none may
// come.
func (m *mirror) run(command string, noExpunge bool) string {
	m.Helper()
	m.send("x " + command + "\r\n")
	for {
		line := m.line()
		if strings.HasSuffix(line, "}") {
			line += m.line()
		}
		if rest, ok := strings.CutPrefix(line, "x "); ok {
			return rest
		}
		m.learn(line, command, noExpunge)
	}
}

func (m *mirror) learn(line, command string, noExpunge bool) {
	m.Helper()
	if f := fetched.FindStringSubmatch(line); f != nil {
		n, _ := strconv.Atoi(f[1])
		if n < 1 || n > len(m.known) {
			m.Fatalf("%s: %s: %q with %d messages", m.name, command, line, len(m.known))
		}
		k := &m.known[n-1]
		if u := fetchedUID.FindStringSubmatch(f[2]); u != nil {
			if k.uid != "" && k.uid != u[1] {
				m.Fatalf("%s: %s: number %d was UID %s and is %s", m.name, command, n, k.uid, u[1])
			}
			k.uid = u[1]
		}
		if fl := fetchedFlags.FindStringSubmatch(f[2]); fl != nil {
			k.flags = fl[1]
		}
		return
	}
	words := strings.Fields(line)
	if len(words) < 3 {
		return
	}
	n, err := strconv.Atoi(words[1])
	switch {
	case err != nil:
	case words[2] == "EXISTS":
		if n < len(m.known) {
			m.Fatalf("%s: %s: %q with %d messages", m.name, command, line, len(m.known))
		}
		for len(m.known) < n {
			m.known = append(m.known, mirrored{flags: "?"})
		}
	case words[2] == "EXPUNGE":
		if noExpunge || n < 1 || n > len(m.known) {
			m.Fatalf("%s: %s: %q with %d messages", m.name, command, line, len(m.known))
		}
		m.known = slices.Delete(m.known, n-1, n)
	}
}

// silent notes what a STORE .SILENT has done, as a client does.
func (m *mirror) silent(n int, add bool, flag string) {
	k := &m.known[n-1]
	if k.flags == "?" {
		return
	}
	flags := slices.DeleteFunc(strings.Fields(k.flags), func(f string) bool { return f == flag })
	if add {
		flags = append(flags, flag)
	}
	slices.Sort(flags)
	k.flags = strings.Join(flags, " ")
}

// TestSessionsAgree lets three sessions do random things to one mailbox, in
// turns and then all at once. Whenever a session has caught up (NOOP), what it
// learnt from the server's untagged data alone must be what the mailbox holds.
func TestSessionsAgree(t *testing.T) {
	f := start(t, Options{})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	u := f.user(t, "ada")
	var sessions []*mirror
	for i := range 3 {
		m := &mirror{raw: connect(t, f), name: fmt.Sprintf("session %d", i)}
		m.do("LOGIN ada@example.test secret", "OK")
		m.run("SELECT INBOX", true)
		sessions = append(sessions, m)
	}
	for range 500 {
		m := sessions[random.IntN(len(sessions))]
		if random.IntN(10) == 0 {
			m.agrees(t, u)
		} else {
			m.act(f, random)
		}
	}
	for _, m := range sessions {
		m.agrees(t, u)
	}
	t.Run("at once", func(t *testing.T) {
		for i, m := range sessions {
			t.Run(m.name, func(t *testing.T) {
				t.Parallel()
				random := rand.New(rand.NewPCG(seed, uint64(i+2)))
				m := &mirror{raw: &raw{t, m.Conn, m.r}, name: m.name, known: m.known}
				for range 100 {
					m.act(f, random)
				}
				sessions[i].known = m.known
			})
		}
	})
	for _, m := range sessions {
		m.agrees(t, u)
	}
}

// act runs one random command.
func (m *mirror) act(f *fixture, random *rand.Rand) {
	m.Helper()
	n := len(m.known)
	pick := 1 + random.IntN(max(n, 1))
	flag := []string{`\Seen`, `\Flagged`, `$One`, `\Deleted`}[random.IntN(4)]
	sign := []string{"+", "-"}[random.IntN(2)]
	switch op := random.IntN(10); {
	case op == 0 || n == 0:
		f.append(m, "ada", "INBOX", "Subject: random\r\n\r\nbody\r\n")
		m.run("NOOP", false)
	case op == 1:
		m.run(fmt.Sprintf("STORE %d %sFLAGS (%s)", pick, sign, flag), true)
	case op == 2:
		// The client assumes that its change is all there is; the server
		// sends a FETCH if it is not.
		m.silent(pick, sign == "+", flag)
		if answer := m.run(fmt.Sprintf("STORE %d %sFLAGS.SILENT (%s)", pick, sign, flag), true); !strings.HasPrefix(answer, "OK") {
			m.known[pick-1].flags = "?" // it is gone
		}
	case op == 3:
		m.run(fmt.Sprintf("FETCH %d:* (UID FLAGS)", pick), true)
	case op == 4:
		m.run("EXPUNGE", false)
	case op == 5:
		m.run(fmt.Sprintf("COPY %d INBOX", pick), false)
	case op == 6:
		m.run(fmt.Sprintf("MOVE %d Archive", pick), false)
	case op == 7:
		m.run(fmt.Sprintf("FETCH %d BODY[TEXT]<0.1>", pick), true)
	case op == 8:
		m.run("SEARCH UNSEEN SUBJECT random", true)
	default:
		m.run(fmt.Sprintf("UID STORE %d:* %sFLAGS (%s)", pick, sign, flag), false)
	}
}

// agrees compares a session that has caught up with the mailbox.
func (m *mirror) agrees(t *testing.T, u backend.User) {
	t.Helper()
	m.run("NOOP", false)
	before := slices.Clone(m.known)
	m.run("UID FETCH 1:* FLAGS", false)
	mailbox, err := u.Mailbox(t.Context(), "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	view, err := u.View(t.Context(), mailbox.ID)
	if err != nil {
		t.Fatal(err)
	}
	if view.Messages.Len() != len(m.known) {
		t.Fatalf("%s knows %d messages, there are %d", m.name, len(m.known), view.Messages.Len())
	}
	for i, msg := range view.Messages.All() {
		want := mirrored{strconv.Itoa(int(msg.UID)), strings.Join(msg.Flags, " ")}
		if m.known[i] != want {
			t.Fatalf("%s: message %d is %v, want %v", m.name, i+1, m.known[i], want)
		}
		if old := before[i]; old.uid != "" && old.uid != want.uid || old.flags != "?" && old.flags != want.flags {
			t.Fatalf("%s: message %d was taken for %v, and is %v", m.name, i+1, old, want)
		}
	}
}
