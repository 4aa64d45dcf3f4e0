package tcpauth

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
	"switchyard/lookup/lookuptest"
)

// memory is a Database for tests, which can be broken.
type memory struct {
	mu      sync.Mutex
	users   map[string]user
	fail    error
	panics  bool
	started chan struct{} // a call arrived while held
	hold    chan struct{} // calls wait for it
	checks  []lookup.Credentials
}

type user struct {
	password string
	labels   map[string]string
}

func newMemory() *memory { return &memory{users: make(map[string]user)} }

// contract returns a database with the accounts of lookuptest.
func contract(t *testing.T) *memory {
	t.Helper()
	m := newMemory()
	for _, r := range lookuptest.Accounts() {
		if _, err := m.Set(t.Context(), r.Name, &r.Password, netwin.Labels(r.Account)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m *memory) begin() error {
	m.mu.Lock()
	hold, started, fail, panics := m.hold, m.started, m.fail, m.panics
	m.mu.Unlock()
	if hold != nil {
		started <- struct{}{}
		<-hold
	}
	if panics {
		panic("a bug in the database")
	}
	return fail
}

func (m *memory) set(f func(*memory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(m)
}

func (m *memory) Lookup(_ context.Context, name string) (lookup.Account, error) {
	if err := m.begin(); err != nil {
		return lookup.Account{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	u, found := m.users[name]
	if !found {
		return lookup.Account{}, lookup.ErrAbsent
	}
	return netwin.Account(name, maps.Clone(u.labels))
}

func (m *memory) Check(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	m.set(func(m *memory) { m.checks = append(m.checks, c) })
	account, err := m.Lookup(ctx, c.Name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if lookup.AnswerOf(err) == lookup.AnswerAbsent || err == nil && m.users[c.Name].password != c.Password {
		return lookup.Account{}, lookup.ErrRejected
	}
	return account, err
}

func (m *memory) Set(_ context.Context, name string, password *string, labels map[string]string) (bool, error) {
	if err := m.begin(); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	u, found := m.users[name]
	if !found && password == nil {
		return false, lookup.ErrAbsent
	}
	if password != nil {
		u.password = *password
	}
	merged := maps.Clone(u.labels)
	if merged == nil {
		merged = make(map[string]string)
	}
	for label, value := range labels {
		if merged[label] = value; value == "" {
			delete(merged, label)
		}
	}
	u.labels = merged
	m.users[name] = u
	return !found, nil
}

func (m *memory) Delete(_ context.Context, name string) error {
	if err := m.begin(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, found := m.users[name]; !found {
		return lookup.ErrAbsent
	}
	delete(m.users, name)
	return nil
}

func (m *memory) Search(_ context.Context, pattern string, from, max int) ([]string, int, int, error) {
	if err := m.begin(); err != nil {
		return nil, 0, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(m.users)) {
		if pattern == "*" || strings.Contains(name, pattern) {
			names = append(names, name)
		}
	}
	found := len(names)
	names = names[min(from, found):]
	if max > 0 && len(names) > max {
		names = names[:max]
	}
	return names, found, len(m.users), nil
}

// running is a server that listens.
type running struct {
	address string
	server  *Server
	db      *memory
	logs    *observer.ObservedLogs
	stop    func() // ends it and waits; more than once is fine
}

// serve starts a server on a free port, or on the one given.
func serve(t *testing.T, db *memory, opts ServerOptions, address ...string) *running {
	t.Helper()
	r := serveAny(t, db, opts, address...)
	r.db = db
	return r
}

// serveAny serves any database.
func serveAny(t *testing.T, db Database, opts ServerOptions, address ...string) *running {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	opts.Logger = zap.New(core)
	srv, err := NewServer(db, opts)
	if err != nil {
		t.Fatal(err)
	}
	ln := listen(t, address...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, ln) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return &running{address: ln.Addr().String(), server: srv, logs: logs, stop: stop}
}

func newClient(t *testing.T, opts ClientOptions, servers ...string) *Client {
	t.Helper()
	c, err := NewClient(servers, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// eventually repeats f until it returns true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
		<-tick.C
	}
}
