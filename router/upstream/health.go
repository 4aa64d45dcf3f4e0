package upstream

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// State is how a service of a node is, as far as it is known here.
type State int

// The states. Sessions go to what is up, to what is suspect when nothing else is
// left, and to neither of the others; one at a time may try what is down, when
// its time has come.
const (
	Up      State = iota
	Suspect       // something failed lately
	Down          // the breaker is open
	Drained       // out of service by an administrator's word, or the node's own
	States
)

func (s State) String() string { return [...]string{"up", "suspect", "down", "drained"}[s] }

// MarshalText makes a State a word in JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *State) UnmarshalText(text []byte) error {
	for *s = Up; *s < States; *s++ {
		if s.String() == string(text) {
			return nil
		}
	}
	return fmt.Errorf("no such state: %q", text)
}

// stage is where something failed.
type stage int

const (
	connecting stage = iota // TCP connect and implicit TLS: the client has no part in it
	talking                 // the dialogue up to the login, for a client and an account
	checking                // a health check
	telling                 // the node itself says that it does not serve
)

// failure is evidence against a service of a node.
type failure struct {
	at      stage
	err     error
	account string
	client  netip.Addr
}

// move is a change of state, for the log.
type move struct {
	from, to State
	reason   string
}

// health is what is known of a service of a node. It is safe for concurrent use.
//
// One failure to connect, or one failed check, makes it suspect: that costs
// nothing, since a peer is there to go to or there is none. A failure behind the
// connect may be for one client's sake, whom the node has banned, or for one
// account's, whose mailbox is broken. It counts only beside another one's. The
// breaker opens on Fall failures in a row that at least two clients and two
// accounts met, or Fall checks.
type health struct {
	fall, rise int
	mark       time.Duration

	mu      sync.Mutex
	state   State // Up, Suspect or Down
	since   time.Time
	reason  string    // why not up
	failed  time.Time // the latest failure
	checked time.Time // the latest check
	note    string    // what a check found that an operator has to mend
	wish    string    // why the node asks for no sessions; "" when it does not
	wished  time.Time // since when

	run, checks, talks int // failures in a row: all, checks, talks
	slow               int // connects in a row that a peer's overtook
	rises              int // successes in a row while not up
	clients            two[netip.Addr]
	accounts           two[string]

	trial bool          // one session is trying what is down
	held  time.Time     // no success of a check counts before that
	hold  time.Duration // how long the latest opening by clients held
	left  time.Time     // when Down was left last

	good, bad uint64 // checks
	moves     [States]uint64
}

// maxHold bounds how long the breaker stays open against checks that succeed.
const maxHold = time.Minute

// two remembers whether there are two different ones.
type two[T comparable] struct {
	first T
	n     int
}

func (t *two[T]) add(v T) {
	switch {
	case t.n == 0:
		t.first, t.n = v, 1
	case v != t.first:
		t.n = 2
	}
}

func (h *health) init(o *Options, now time.Time) {
	h.fall, h.rise, h.mark, h.since, h.hold = o.Fall, o.Rise, o.Mark, now, o.Mark
}

// fail counts evidence against it.
func (h *health) fail(now time.Time, f failure) (m move) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed, h.rises = now, 0
	h.run++
	switch f.at {
	case checking, telling:
		h.checks++
		h.checked = now
		h.bad++
	case talking:
		h.talks++
		fallthrough
	default:
		h.clients.add(f.client)
		h.accounts.add(f.account)
	}
	several := h.clients.n > 1 && h.accounts.n > 1
	switch {
	case f.at == telling, h.checks >= h.fall:
		return h.enter(now, Down, f.err.Error())
	case several && h.run >= h.fall:
		if h.state != Down {
			if h.hold = min(2*h.hold, maxHold); now.Sub(h.left) > time.Minute {
				h.hold = h.mark
			}
			h.held = now.Add(h.hold)
		}
		return h.enter(now, Down, f.err.Error())
	case h.state == Up && (f.at != talking || several):
		return h.enter(now, Suspect, f.err.Error())
	case h.state != Up:
		h.reason = f.err.Error()
	}
	return move{}
}

// enter changes the state. The caller holds mu.
func (h *health) enter(now time.Time, to State, reason string) move {
	h.reason = reason
	if h.state == to {
		return move{}
	}
	m := move{h.state, to, reason}
	if h.state == Down {
		h.left = now
	}
	h.state, h.since = to, now
	h.moves[to]++
	return m
}

// errSlow: a peer was connected first.
var errSlow = errors.New("no connection yet when the peer's was there")

// late counts a connect that a peer's overtook. One may be a lost packet.
func (h *health) late(now time.Time, f failure) move {
	h.mu.Lock()
	h.slow++
	again := h.slow > 1
	h.mu.Unlock()
	if !again {
		return move{}
	}
	return h.fail(now, f)
}

// succeed counts evidence for it. A connection alone is none when it was not
// connects that failed.
func (h *health) succeed(now time.Time, at stage) move {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.slow = 0
	switch {
	case at == checking:
		h.good++
		h.checked = now
		if now.Before(h.held) {
			return move{}
		}
	case at == connecting && h.talks+h.checks > 0:
		return move{}
	}
	h.run, h.checks, h.talks = 0, 0, 0
	h.clients, h.accounts = two[netip.Addr]{}, two[string]{}
	if h.state == Up {
		return move{}
	}
	h.rises++
	switch {
	case h.rises >= h.rise:
		h.rises = 0
		return h.enter(now, Up, "")
	case h.state == Down:
		return h.enter(now, Suspect, h.reason)
	}
	return move{}
}

// says notes what else a check brought to light. It reports whether that is new.
func (h *health) says(note, wish string) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	asks := (h.wish == "") != (wish == "")
	if asks {
		h.wished = time.Now()
	}
	changed = h.note != note || asks
	h.note, h.wish = note, wish
	return changed
}

// rank says how much it is wanted for a session.
type rank int

const (
	preferred  rank = iota // it is up
	onTrial                // one session may try it as if it were up
	lastResort             // only when nothing else is left
	unusable
)

func (h *health) rank(now time.Time) rank {
	h.mu.Lock()
	defer h.mu.Unlock()
	due := !h.trial && now.Sub(h.failed) >= h.mark && !now.Before(h.held)
	switch {
	case h.wish != "":
		return unusable
	case h.state == Up:
		return preferred
	case due:
		return onTrial
	case h.state == Suspect:
		return lastResort
	default:
		return unusable
	}
}

// try takes the place of the one session that may try it. It returns false when
// another has it.
func (h *health) try() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	mine := !h.trial
	h.trial = true
	return mine
}

func (h *health) tried() {
	h.mu.Lock()
	h.trial = false
	h.mu.Unlock()
}

// current returns the state, the node's own wish included.
func (h *health) current() State {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wish != "" {
		return Drained
	}
	return h.state
}

// isDown explains why no session goes there.
func (h *health) isDown() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wish != "" {
		return fmt.Errorf("%w by its own wish: %s", errDrained, h.wish)
	}
	return fmt.Errorf("down since %s: %s", h.since.Format(time.RFC3339), h.reason)
}
