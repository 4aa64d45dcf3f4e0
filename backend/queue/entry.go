package queue

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Envelope is a message's sender and recipients, with what RFC 3461 lets the
// sender ask for.
type Envelope struct {
	From string // "" is the null sender
	To   []To

	UTF8   bool   // SMTPUTF8 was said (RFC 6531)
	Return string // RET: "FULL", "HDRS" or ""
	ID     string // ENVID

	// Trace is how many bytes at the start of the body were put there on the
	// way in and differ each time (a Received line). Delivery ids leave them
	// out.
	Trace int64

	Session string // the id of the session that brought it, for the log
}

// To is one recipient of an Envelope.
type To struct {
	Address  string
	Notify   []string // NOTIFY: "NEVER", or some of "SUCCESS", "FAILURE", "DELAY"
	Original string   // ORCPT, decoded: type;address
}

// Lane is one of the ways out.
type Lane int

// The lanes. A recipient changes from local to proxies when its account turns
// out to live elsewhere.
const (
	LaneLocal Lane = iota
	LaneProxies
	LaneRelay
	laneCount
)

func (l Lane) String() string { return [...]string{"local", "proxies", "relay"}[l] }

// State is what became of a recipient.
type State int

// The states. All but Waiting are final. The numbers are stored.
const (
	Waiting   State = 0
	Delivered State = 1 // in the recipient's mailbox, or handed over
	Failed    State = 2 // refused, or given up
)

// Recipient is one recipient of a message in the queue.
type Recipient struct {
	To
	Lane     Lane
	State    State
	Attempts int
	Next     time.Time // of the next attempt
	Last     time.Time // of the last attempt; zero: none yet
	Reply    string    // what the last attempt got: "451 4.3.0 text"
	Server   string    // who said so; empty: this node
	Relayed  bool      // Delivered, and the sender is to hear that nothing more will be heard
	Report   int       // number of the report that it is in; zero: none
	Reported bool      // that report is in the queue
}

// record is the stored form of an entry.
type record struct {
	Version    int
	Envelope   Envelope // To is empty: see Recipients
	Created    time.Time
	Recipients []Recipient
	Reports    int // how many reports there are
}

const recordVersion = 1

// entry is a message in the queue.
type entry struct {
	id   uint64
	jobs [laneCount]*job // guarded by Queue.mu

	mu sync.Mutex
	record
	dirty bool // what the record says is not on disk yet
	gone  bool // deleted from the store
}

func newEntry(env Envelope, now time.Time, lane func(address string) Lane) *entry {
	// Times are stored in UTC without a monotonic part: a reloaded entry is
	// equal to the one that was saved.
	now = now.UTC().Round(0)
	e := &entry{record: record{Version: recordVersion, Envelope: env, Created: now}}
	for _, to := range env.To {
		e.Recipients = append(e.Recipients, Recipient{To: to, Lane: lane(to.Address), Next: now})
	}
	e.Envelope.To = nil
	return e
}

// encode writes the record. The caller holds mu, or nobody else has the entry.
func (e *entry) encode() []byte {
	raw, err := json.Marshal(e.record)
	if err != nil {
		panic(fmt.Sprintf("queue: encode entry: %v", err)) // strings, numbers and times only
	}
	return raw
}

func decode(id uint64, raw []byte) (*entry, error) {
	e := &entry{id: id}
	if err := json.Unmarshal(raw, &e.record); err != nil {
		return nil, err
	}
	if e.Version != recordVersion {
		return nil, fmt.Errorf("version %d, want %d", e.Version, recordVersion)
	}
	for _, r := range e.Recipients {
		if r.Lane < 0 || r.Lane >= laneCount {
			return nil, fmt.Errorf("lane %d of %q", r.Lane, r.Address)
		}
	}
	return e, nil
}

func (e *entry) show() Entry {
	e.mu.Lock()
	defer e.mu.Unlock()
	return Entry{ID: e.id, From: e.Envelope.From, Created: e.Created, Recipients: slices.Clone(e.Recipients)}
}

// due returns copies of the recipients that are to be tried now in a lane, and
// their places.
func (e *entry) due(lane Lane, now time.Time) (places []int, recipients []Recipient) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, r := range e.Recipients {
		if r.State == Waiting && r.Lane == lane && !r.Next.After(now) {
			places, recipients = append(places, i), append(recipients, r)
		}
	}
	return places, recipients
}

// next returns when each lane has something to do; false: nothing.
func (e *entry) next() (when [laneCount]time.Time, any [laneCount]bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.Recipients {
		if r.State == Waiting && (!any[r.Lane] || r.Next.Before(when[r.Lane])) {
			when[r.Lane], any[r.Lane] = r.Next, true
		}
	}
	return when, any
}

// replace adds those whom a recipient has become, but for who is there already. It
// returns their lanes. The caller holds mu; recipients change their places in
// memory.
func (e *entry) replace(old To, by []string, now time.Time, lane func(address string) Lane) (lanes []Lane) {
	to := old
	for _, address := range by {
		if slices.ContainsFunc(e.Recipients, func(r Recipient) bool { return strings.EqualFold(r.Address, address) }) {
			continue
		}
		r := Recipient{To: to.onward(address, old.Address), Lane: lane(address), Next: now}
		to = old.withoutSuccess()
		e.Recipients, lanes = append(e.Recipients, r), append(lanes, r.Lane)
	}
	return lanes
}

// finished reports whether every recipient has a final answer. The caller
// holds mu.
func (e *entry) finished() bool {
	return !slices.ContainsFunc(e.Recipients, func(r Recipient) bool { return r.State == Waiting })
}
