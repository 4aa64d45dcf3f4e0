package queue

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"switchyard/backend"
	"switchyard/lookup"
)

var errCrash = errors.New("the node is gone")

// disk is a node's durable state: the queue and the mailboxes. A crash is
// simulated by trip: it is called before and after each change takes effect,
// and from its first true on everything fails.
type disk struct {
	mu      sync.Mutex
	entries map[uint64][]byte
	bodies  map[uint64][]byte
	last    uint64
	boxes   map[string][]string // messages by account
	ids     map[[32]byte]bool
	once    map[[32]byte]uint64        // entries by delivery
	deliver func(account string) error // nil: none

	trip  func() bool
	dead  bool
	again int // deliveries that were duplicates
}

func newDisk() *disk {
	return &disk{entries: make(map[uint64][]byte), bodies: make(map[uint64][]byte), boxes: make(map[string][]string), ids: make(map[[32]byte]bool), once: make(map[[32]byte]uint64)}
}

// change makes a change, unless the node crashed before it. The error may come
// although the change was made.
func (d *disk) change(f func()) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead || d.trip != nil && d.trip() {
		d.dead = true
		return errCrash
	}
	f()
	if d.trip != nil && d.trip() {
		d.dead = true
		return errCrash
	}
	return nil
}

func (d *disk) QueueAddOnce(_ context.Context, delivery [32]byte, entry []byte, body io.ReaderAt, size int64) (id uint64, added bool, err error) {
	raw, err := io.ReadAll(io.NewSectionReader(body, 0, size))
	if err != nil || int64(len(raw)) != size {
		return 0, false, fmt.Errorf("body of %d bytes, want %d: %v", len(raw), size, err)
	}
	err = d.change(func() {
		if id = d.once[delivery]; id > 0 && delivery != [32]byte{} {
			return
		}
		d.last++
		id, added = d.last, true
		d.once[delivery] = id
		d.entries[id], d.bodies[id] = slices.Clone(entry), raw
	})
	return id, added, err
}

func (d *disk) QueueUpdate(_ context.Context, id uint64, entry []byte) error {
	return d.change(func() {
		if d.entries[id] == nil {
			panic("update of what is not there")
		}
		d.entries[id] = slices.Clone(entry)
	})
}

func (d *disk) QueueDelete(_ context.Context, id uint64) error {
	d.mu.Lock()
	_, ok := d.entries[id]
	ok = ok || d.dead
	d.mu.Unlock()
	if !ok {
		return backend.ErrNoMessage
	}
	return d.change(func() { delete(d.entries, id); delete(d.bodies, id) })
}

func (d *disk) QueueScan(_ context.Context, each func(uint64, []byte) bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(d.entries)) {
		if !each(id, d.entries[id]) {
			break
		}
	}
	return nil
}

func (d *disk) QueueBody(_ context.Context, id uint64) (backend.Body, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return nil, errCrash
	}
	raw, ok := d.bodies[id]
	if !ok {
		return nil, backend.ErrNoMessage
	}
	return body{bytes.NewReader(raw)}, nil
}

type body struct{ *bytes.Reader }

func (body) Close() error { return nil }

// queued returns how many entries are on disk.
func (d *disk) queued() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.entries)
}

// box returns an account's messages.
func (d *disk) box(account string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.boxes[account])
}

// user is a mailbox on the disk.
type user struct {
	backend.User
	d    *disk
	name string
}

func (u *user) Deliver(_ context.Context, in backend.Delivery) (done backend.Delivered, err error) {
	if u.d.deliver != nil {
		if err := u.d.deliver(u.name); err != nil {
			return done, err
		}
	}
	raw, err := io.ReadAll(io.NewSectionReader(in.Body, 0, in.Size))
	if err != nil || int64(len(raw)) != in.Size {
		return done, fmt.Errorf("body of %d bytes, want %d: %v", len(raw), in.Size, err)
	}
	err = u.d.change(func() {
		id := sha256.Sum256(append([]byte(u.name), in.ID[:]...))
		if in.ID != [32]byte{} && u.d.ids[id] {
			done.Duplicate = true
			u.d.again++
			return
		}
		u.d.ids[id] = true
		u.d.boxes[u.name] = append(u.d.boxes[u.name], string(raw))
	})
	return done, err
}

// accounts is a directory with its gate: by address, an error, or a mailbox
// for nil.
type accounts struct {
	d  *disk
	mu sync.Mutex
	m  map[string]error
}

var errClosed = errors.New("account is closed")

func (a *accounts) set(address string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.m[address] = err
}

func (a *accounts) Recipient(_ context.Context, address string, _ uint64) (backend.User, lookup.Account, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	err, ok := a.m[address]
	switch {
	case !ok:
		return nil, lookup.Account{}, lookup.ErrAbsent
	case errors.Is(err, errClosed):
		return nil, lookup.Account{Name: address, Status: lookup.StatusClosed}, err
	case err != nil:
		return nil, lookup.Account{}, err
	}
	return &user{d: a.d, name: address}, lookup.Account{Name: address}, nil
}

// remote is an SMTP server: what it answers is decided by reply, which gets
// each command ("." for the end of the message) and returns "" for the usual
// answer, or "close" for none.
type remote struct {
	lmtp  bool
	ehlo  []string
	reply func(line string) string

	mu       sync.Mutex
	messages []received
	dials    int
	dialErr  error
}

type received struct {
	from string
	to   []string
	text string
}

func (r *remote) dial(context.Context, string, string) (net.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dials++
	if r.dialErr != nil {
		return nil, r.dialErr
	}
	front, back := net.Pipe()
	go r.serve(back)
	return front, nil
}

func (r *remote) got() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.messages)
}

func (r *remote) connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dials
}

func (r *remote) serve(nc net.Conn) {
	defer nc.Close()
	in := bufio.NewReader(nc)
	say := func(s string) { io.WriteString(nc, s+"\r\n") }
	say("220 remote.example")
	var m received
	answer := func(line, usual string) (string, bool) {
		a := ""
		if r.reply != nil {
			a = r.reply(line)
		}
		if a == "close" {
			return "", false
		}
		if a == "" {
			a = usual
		}
		say(a)
		return a, true
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSpace(line)
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		switch verb {
		case "EHLO", "LHLO":
			for _, e := range append([]string{"remote.example"}, r.ehlo...) {
				say("250-" + e)
			}
			say("250 ENHANCEDSTATUSCODES")
		case "MAIL":
			a, ok := answer(line, "250 2.1.0 ok")
			if !ok {
				return
			}
			if a[0] == '2' {
				m = received{from: line}
			}
		case "RCPT":
			a, ok := answer(line, "250 2.1.5 ok")
			if !ok {
				return
			}
			if a[0] == '2' {
				m.to = append(m.to, line[strings.Index(line, "<")+1:strings.Index(line, ">")])
			}
		case "DATA":
			a, ok := answer(line, "354 go")
			if !ok {
				return
			}
			if a[0] != '3' {
				continue
			}
			for {
				text, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if text == ".\r\n" {
					break
				}
				m.text += strings.TrimPrefix(text, ".")
			}
			taken := received{from: m.from, text: m.text}
			answers := []string{""}
			if r.lmtp {
				answers = m.to
			}
			for _, to := range answers {
				a, ok := answer(". "+to, "250 2.0.0 taken")
				if !ok {
					return
				}
				if a[0] == '2' {
					taken.to = append(taken.to, to)
				}
			}
			if !r.lmtp && len(taken.to) > 0 {
				taken.to = m.to
			}
			if len(taken.to) > 0 {
				r.mu.Lock()
				r.messages = append(r.messages, taken)
				r.mu.Unlock()
			}
		case "QUIT":
			say("221 2.0.0 bye")
			return
		default:
			say("250 2.0.0 ok")
		}
	}
}

// bench is a queue with everything around it.
type bench struct {
	t     testing.TB
	disk  *disk
	acc   *accounts
	other *remote
	o     Options
	q     *Queue
}

func newBench(t testing.TB, o Options) *bench {
	d := newDisk()
	b := &bench{t: t, disk: d, other: &remote{}, o: o,
		acc: &accounts{d: d, m: map[string]error{"anna@here.test": nil, "ben@here.test": nil}}}
	b.o.Hostname = "b1a.here.test"
	b.o.Domains = []string{"here.test"}
	if b.o.Dial == nil {
		b.o.Dial = b.other.dial
	}
	b.open()
	return b
}

// open starts the node, or starts it again.
func (b *bench) open() {
	b.t.Helper()
	b.disk.mu.Lock()
	b.disk.dead, b.disk.trip = false, nil
	b.disk.mu.Unlock()
	q, err := New(context.Background(), b.disk, b.acc, b.o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.q = q
}

// run runs the queue; the returned function stops it.
func (b *bench) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.q.Run(ctx)
	}()
	return func() { cancel(); <-done }
}

const mailText = "Message-ID: <1@here.test>\r\nSubject: x\r\n\r\n.dot\r\nbody\r\n"

func (b *bench) accept(from string, to ...string) uint64 {
	b.t.Helper()
	env := Envelope{From: from}
	for _, a := range to {
		env.To = append(env.To, To{Address: a})
	}
	id, err := b.q.Accept(context.Background(), env, strings.NewReader(mailText), int64(len(mailText)))
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}
