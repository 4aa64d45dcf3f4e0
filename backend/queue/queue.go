// Package queue is a node's durable outbound queue.
//
// Accept takes a message with its recipients; when it returns, the message is
// on disk and will be delivered or its sender told. Run delivers:
//
//	local    recipients whose domain is this cluster's, by the store itself
//	proxies  those of them that live on another backend, by SMTP or LMTP to
//	         the proxies, who know where
//	relay    everybody else, by SMTP to a smart host
//
// The three are lanes of their own: a relay that hangs does not keep local mail
// waiting. Each lane has a bound on deliveries at a time.
//
// A recipient that cannot be served now is tried again by the schedule, until
// it is too old; one that is refused, or too old, is reported to the sender
// (RFC 3464), except to the null sender, so that reports cause no reports. A
// delivery into a mailbox of this node is reported to a sender who asked for that,
// and so is one to a server that will not report it.
//
// What it promises: an entry goes only when every recipient has a final answer
// and each report that is due is an entry of its own. A crash between a
// delivery and its record delivers again; the delivery id, which is the same
// each time, lets the receiving backend store it once. Reports are made from
// what the entry says alone, so that one made twice has one id as well.
//
// Entries are kept in memory too, about one kilobyte each; Options.MaxEntries
// bounds them.
package queue

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"switchyard/backend"
	"switchyard/lookup"
	"switchyard/lookup/resolve"

	"go.uber.org/zap"
)

// Store keeps entries and bodies. Each method returns when its change is
// durable. backend/store satisfies it.
type Store interface {
	QueueAddOnce(ctx context.Context, delivery [32]byte, entry []byte, body io.ReaderAt, size int64) (id uint64, added bool, err error)
	QueueUpdate(ctx context.Context, id uint64, entry []byte) error
	QueueDelete(ctx context.Context, id uint64) error
	QueueScan(ctx context.Context, each func(id uint64, entry []byte) bool) error
	QueueBody(ctx context.Context, id uint64) (backend.Body, error)
}

// Accounts finds the mail of accounts that live here. *access.Gate satisfies
// it: an error beside an account that may not receive is that refusal.
type Accounts interface {
	Recipient(ctx context.Context, address string, generation uint64) (backend.User, lookup.Account, error)
}

// Options for New. The zero value works: local delivery only.
type Options struct {
	// Hostname is what the node calls itself: in EHLO, in reports. Empty
	// means "localhost".
	Hostname string

	// Domains are this cluster's own, in lower case.
	Domains []string

	// Proxies take mail for accounts of other backends. They are tried in
	// turn.
	Proxies []Server

	// Relay takes mail for other domains. Empty: there is none, and such
	// mail is not accepted.
	Relay []Server

	// Resolver follows aliases and details of local addresses, and leaves
	// forwards to the home of each account. Nil: there are none but +details.
	Resolver *resolve.Resolver

	// Chains is a Resolver that follows forwards too: it is asked whether they
	// lead in a circle. Nil: nobody is.
	Chains *resolve.Resolver

	// Filter delivers by the recipients' own rules; nil: into INBOX.
	Filter Filter

	// Schedule is how long to wait before the second, third, … attempt; its
	// last is used for all that follow. Nil means 1 m, 5 m, 15 m, 1 h, 4 h.
	Schedule []time.Duration

	// GiveUp is when a recipient is given up, from the moment it was
	// accepted. Zero means five days (RFC 5321 §4.5.4.1).
	GiveUp time.Duration

	// Concurrency bounds the deliveries of one lane at a time. Zero means 10.
	Concurrency int

	// MaxEntries bounds the queue; Accept refuses more. Zero means 100,000.
	MaxEntries int

	// DialTime, CommandTime and DataTime bound the steps of a delivery to
	// another server: connecting with TLS, each command and each write, and
	// the answer behind the message. Zero means 30 seconds, 5 minutes and 10
	// minutes (RFC 5321 §4.5.3.2).
	DialTime, CommandTime, DataTime time.Duration

	// Dial connects to a server. Nil means net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	Logger *zap.Logger // nil: none
}

func (o Options) withDefaults() Options {
	o.Hostname = cmp.Or(o.Hostname, "localhost")
	if len(o.Schedule) == 0 {
		o.Schedule = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 4 * time.Hour}
	}
	o.GiveUp = cmp.Or(o.GiveUp, 5*24*time.Hour)
	o.Concurrency = cmp.Or(o.Concurrency, 10)
	o.MaxEntries = cmp.Or(o.MaxEntries, 100_000)
	o.DialTime = cmp.Or(o.DialTime, 30*time.Second)
	o.CommandTime = cmp.Or(o.CommandTime, 5*time.Minute)
	o.DataTime = cmp.Or(o.DataTime, 10*time.Minute)
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

// Queue is safe for concurrent use.
type Queue struct {
	store    Store
	accounts Accounts
	o        Options
	wake     chan struct{} // something may be due

	mu      sync.Mutex
	entries map[uint64]*entry
	lanes   [laneCount]jobs
	adding  int // Accepts under way
}

// New reads the queue that the store has. Nothing is delivered before Run.
func New(ctx context.Context, store Store, accounts Accounts, o Options) (*Queue, error) {
	q := &Queue{store: store, accounts: accounts, o: o.withDefaults(), wake: make(chan struct{}, 1), entries: make(map[uint64]*entry)}
	q.mu.Lock()
	defer q.mu.Unlock()
	var bad error
	err := store.QueueScan(ctx, func(id uint64, raw []byte) bool {
		e, err := decode(id, raw)
		if err != nil {
			bad = fmt.Errorf("queue entry %s: %w", FormatID(id), err)
			return false
		}
		q.entries[id] = e
		q.schedule(e)
		return true
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, fmt.Errorf("read the queue: %w", err)
	}
	return q, nil
}

// FormatID writes an entry's id as users and logs see it.
func FormatID(id uint64) string { return fmt.Sprintf("%08x", id) }

// IsLocal reports whether an address is in one of this cluster's domains. An
// address without a domain is.
func (q *Queue) IsLocal(address string) bool {
	_, domain, found := cutLast(address)
	return !found || slices.Contains(q.o.Domains, strings.ToLower(domain))
}

// Relays reports whether mail for other domains has somewhere to go.
func (q *Queue) Relays() bool { return len(q.o.Relay) > 0 }

// Accept puts a message into the queue. When it returns nil the message is
// durable; delivery begins at once. The body stays the caller's, which must not
// change it until Accept returns. Errors: backend.ErrBusy, and the store's.
func (q *Queue) Accept(ctx context.Context, env Envelope, body io.ReaderAt, size int64) (id uint64, err error) {
	return q.AcceptOnce(ctx, [32]byte{}, env, body, size)
}

// AcceptOnce is Accept, but a message that was accepted with the same id of a
// delivery before is not accepted again: its sender repeated itself. The zero id
// always accepts.
func (q *Queue) AcceptOnce(ctx context.Context, delivery [32]byte, env Envelope, body io.ReaderAt, size int64) (id uint64, err error) {
	if err := q.reserve(); err != nil {
		return 0, err
	}
	return q.add(ctx, delivery, env, body, size)
}

// add is AcceptOnce with a place that is reserved; it is used up.
func (q *Queue) add(ctx context.Context, delivery [32]byte, env Envelope, body io.ReaderAt, size int64) (id uint64, err error) {
	e := newEntry(env, time.Now(), q.laneOf)
	id, added, err := q.store.QueueAddOnce(ctx, delivery, e.encode(), body, size)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.adding--
	if err != nil {
		return 0, fmt.Errorf("queue a message: %w", err)
	}
	if !added {
		return id, nil
	}
	e.id = id
	q.entries[id] = e
	q.schedule(e)
	return id, nil
}

// reserve holds a place for one entry more.
func (q *Queue) reserve() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.entries)+q.adding >= q.o.MaxEntries {
		return fmt.Errorf("%w: the queue is full with %d messages", backend.ErrBusy, len(q.entries))
	}
	q.adding++
	return nil
}

// release gives a reserved place back.
func (q *Queue) release() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.adding--
}

// laneOf says how a recipient is served at first.
func (q *Queue) laneOf(address string) Lane {
	if q.IsLocal(address) {
		return LaneLocal
	}
	return LaneRelay
}

// Len returns how many messages are in the queue.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.entries)
}

// Entry is a message in the queue, for an operator to look at.
type Entry struct {
	ID         uint64
	From       string
	Created    time.Time
	Recipients []Recipient
}

// List returns the queue's messages, oldest first.
func (q *Queue) List() []Entry {
	q.mu.Lock()
	entries := make([]*entry, 0, len(q.entries))
	for _, e := range q.entries {
		entries = append(entries, e)
	}
	q.mu.Unlock()
	list := make([]Entry, 0, len(entries))
	for _, e := range entries {
		list = append(list, e.show())
	}
	slices.SortFunc(list, func(a, b Entry) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// FindRecipient finds the account of an address: that of the very name, else, for
// user+detail@domain, that of user@domain (RFC 5233). Errors are those of
// Accounts.
func FindRecipient(ctx context.Context, accounts Accounts, address string, generation uint64) (backend.User, lookup.Account, error) {
	user, account, err := accounts.Recipient(ctx, address, generation)
	if lookup.AnswerOf(err) != lookup.AnswerAbsent {
		return user, account, err
	}
	base, found := WithoutDetail(address)
	if !found {
		return user, account, err
	}
	return accounts.Recipient(ctx, base, generation)
}

// WithoutDetail returns an address without its +detail; found is false when it
// has none.
func WithoutDetail(address string) (base string, found bool) {
	local, domain, hasDomain := cutLast(address)
	user, _, found := strings.Cut(local, "+")
	if !found || user == "" {
		return address, false
	}
	if hasDomain {
		user += "@" + domain
	}
	return user, true
}

// cutLast cuts an address at its last @: a quoted local part may have others.
func cutLast(address string) (local, domain string, found bool) {
	i := strings.LastIndexByte(address, '@')
	if i < 0 {
		return address, "", false
	}
	return address[:i], address[i+1:], true
}
