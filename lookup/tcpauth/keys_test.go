package tcpauth

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"switchyard/internal/wire"
	"switchyard/lookup"
	"switchyard/lookup/internal/authent"
)

const (
	sha256Name = "SCRAM-SHA-256"
	anna       = "anna@example.test"
)

// annasKeys are easy to find where they should not be.
func annasKeys() lookup.Keys {
	return lookup.Keys{
		Mechanism: sha256Name, Iterations: 4096, Salt: []byte("0123456789abcdef"),
		StoredKey: bytes.Repeat([]byte("s"), 32), ServerKey: bytes.Repeat([]byte("v"), 32),
	}
}

// keyed is a database with keys: anna's.
type keyed struct {
	*memory
	mechanisms []string
	walks      atomic.Int64
}

func newKeyed(t *testing.T) *keyed {
	return &keyed{memory: contract(t), mechanisms: []string{sha256Name}}
}

func (k *keyed) Keys(ctx context.Context, name, mechanism string) (lookup.Keys, error) {
	if _, err := k.memory.Lookup(ctx, name); err != nil {
		return lookup.Keys{}, err
	}
	if name != anna || mechanism != sha256Name {
		return lookup.Keys{}, lookup.ErrNoKeys
	}
	return annasKeys(), nil
}

func (k *keyed) KeyMechanisms(context.Context) ([]string, error) {
	k.walks.Add(1)
	if err := k.begin(); err != nil {
		return nil, err
	}
	return k.mechanisms, nil
}

var _ lookup.KeyHolder = (*Client)(nil)

func wantKeys(t *testing.T, d lookup.KeyHolder) {
	t.Helper()
	got, err := d.Keys(t.Context(), anna, sha256Name)
	if diff := cmp.Diff(annasKeys(), got); err != nil || diff != "" {
		t.Errorf("keys: %v (-want +got):\n%s", err, diff)
	}
}

// TestKeys: the answers about keys stay apart on their way, over tags and
// without, and no key gets into the log.
func TestKeys(t *testing.T) {
	db := newKeyed(t)
	s := serveAny(t, db, ServerOptions{Secret: "open sesame"})
	for what, address := range map[string]string{"tags": s.address, "no tags": oldFashioned(t, s.address)} {
		c := newClient(t, ClientOptions{Secret: "open sesame", MaxBackoff: time.Nanosecond}, address)
		wantKeys(t, c)
		for _, q := range []struct {
			name, mechanism string
			want            error
		}{
			{anna, "SCRAM-SHA-1", lookup.ErrNoKeys}, {anna, "no mechanism", lookup.ErrNoKeys}, {"carla@example.test", sha256Name, lookup.ErrNoKeys},
			{"nobody@example.test", sha256Name, lookup.ErrAbsent}, {"nobody@example.test", "no mechanism", lookup.ErrAbsent}, {"Anna@example.test", sha256Name, lookup.ErrAbsent},
		} {
			if got, err := c.Keys(t.Context(), q.name, q.mechanism); !errors.Is(err, q.want) || got.StoredKey != nil {
				t.Errorf("%s: keys of %s for %s: got %v, %v, want %v", what, q.name, q.mechanism, got, err, q.want)
			}
		}
		if got, err := c.KeyMechanisms(t.Context()); err != nil || !slices.Equal(got, db.mechanisms) {
			t.Errorf("%s: mechanisms: got %v, %v", what, got, err)
		}
		db.set(func(m *memory) { m.fail = errors.New("disk on fire") })
		_, err := c.Keys(t.Context(), "nobody@example.test", sha256Name)
		wantUnavailable(t, what+": keys while the database is away", err)
		db.set(func(m *memory) { m.fail = nil })
		wantKeys(t, c)
	}
	stored, server := annasKeys().StoredKey, annasKeys().ServerKey
	for _, entry := range s.logs.All() {
		text := fmt.Sprint(entry.Message, entry.ContextMap())
		for _, key := range [][]byte{stored, server} {
			if strings.Contains(text, string(key)) || strings.Contains(text, base64.StdEncoding.EncodeToString(key)) {
				t.Errorf("the log shows a key: %s", text)
			}
		}
	}
	if got := s.server.Stats().Answers[authent.XKeys]; got.OK == 0 || got.Err == 0 || got.Dead == 0 {
		t.Errorf("statistics: got %+v", got)
	}
}

// TestWhoIsToldKeys: who can hear keys can pretend to be the server. They are for
// who has shown a secret, where nobody else listens; to all others the extension
// does not exist.
func TestWhoIsToldKeys(t *testing.T) {
	serverTLS, clientTLS := certificates(t)
	far, near := netip.MustParseAddrPort("192.0.2.7:1234"), netip.MustParseAddrPort("127.0.0.1:1234")
	for what, c := range map[string]struct {
		client     netip.AddrPort
		shown, tls bool
		db         Database
		want       bool
	}{
		"secret, here, clear":      {near, true, false, newKeyed(t), true},
		"secret, here, mapped":     {netip.MustParseAddrPort("[::ffff:127.0.0.1]:1"), true, false, newKeyed(t), true},
		"secret, far, TLS":         {far, true, true, newKeyed(t), true},
		"secret, far, clear":       {far, true, false, newKeyed(t), false},
		"no secret, here":          {near, false, false, newKeyed(t), false},
		"no secret, far, TLS":      {far, false, true, newKeyed(t), false},
		"a database without them":  {near, true, true, contract(t), false},
		"secret, no address, open": {netip.AddrPort{}, true, false, newKeyed(t), false},
	} {
		srv, err := NewServer(c.db, ServerOptions{Secret: "open sesame"})
		if err != nil {
			t.Fatal(err)
		}
		near, far := net.Pipe()
		s := &session{server: srv, conn: wire.NewConn(near), client: c.client, shown: c.shown}
		if c.tls {
			var wg sync.WaitGroup
			other := wire.NewConn(far)
			config := clientTLS.Clone()
			config.ServerName = "127.0.0.1"
			wg.Go(func() { other.ClientTLS(t.Context(), config) })
			if err := s.conn.ServerTLS(t.Context(), serverTLS); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
		}
		if got := s.tellsKeys(); got != c.want {
			t.Errorf("%s: keys are told: %v, want %v", what, got, c.want)
		}
		if got := parseVersion(s.version().Text).scram; got != c.want {
			t.Errorf("%s: the extension is named: %v, want %v", what, got, c.want)
		}
		far.Close()
		near.Close()
	}
}

// TestKeysWithoutSecret: who asks without having shown a secret learns nothing,
// not even who exists; where there is none to show, nobody does.
func TestKeysWithoutSecret(t *testing.T) {
	for _, secret := range []string{"", "open sesame"} {
		s := serveAny(t, newKeyed(t), ServerOptions{Secret: secret})
		p := connect(t, s.address)
		if secret == "" {
			p.send("auth anything\n")
			p.want("+OK")
		}
		for _, command := range []string{"xkeys anna@example.test SCRAM-SHA-256", "xkeys nobody@example.test SCRAM-SHA-256", "xkeymechs"} {
			p.send(command + "\n")
			if got := p.line(); !strings.HasPrefix(got, "-DEAD ") {
				t.Errorf("%s with secret %q: got %q", command, secret, got)
			}
		}
	}
	// A client of such a server knows of no keys, and still tells who exists.
	s := serveAny(t, newKeyed(t), ServerOptions{})
	c := newClient(t, ClientOptions{}, s.address)
	if _, err := c.Keys(t.Context(), anna, sha256Name); !errors.Is(err, lookup.ErrNoKeys) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Keys(t.Context(), "nobody@example.test", sha256Name); !errors.Is(err, lookup.ErrAbsent) {
		t.Errorf("got %v", err)
	}
	if got, err := c.KeyMechanisms(t.Context()); err != nil || got != nil {
		t.Errorf("mechanisms: got %v, %v", got, err)
	}
}

// TestKeysOfSeveralServers: an old server does not make "no keys" of a new one's
// absence; old ones alone do.
func TestKeysOfSeveralServers(t *testing.T) {
	old := func() string {
		return newActor(t, "+OK NWAuth 4.0g", func(w io.Writer, line string, _ int) bool {
			if strings.HasPrefix(line, "x") {
				t.Errorf("an old server was asked %q", line)
			}
			io.WriteString(w, right(line))
			return true
		}).address
	}
	const secret = "open sesame"
	withSecret := func() string {
		return newActor(t, "+OK NWAuth 4.0g", func(w io.Writer, line string, _ int) bool {
			if strings.HasPrefix(line, "auth ") {
				io.WriteString(w, "+OK\n")
			} else {
				io.WriteString(w, right(line))
			}
			return !strings.HasPrefix(line, "x")
		}).address
	}
	first, second := old(), old()
	c := newClient(t, ClientOptions{}, first, second)
	if _, err := c.Keys(t.Context(), anna, sha256Name); !errors.Is(err, lookup.ErrNoKeys) {
		t.Errorf("of old servers: got %v", err)
	}
	// The new one second: it is asked.
	s := serveAny(t, newKeyed(t), ServerOptions{Secret: secret})
	g := newGate(t, s.address)
	c = newClient(t, ClientOptions{Secret: secret, MaxBackoff: time.Nanosecond, Timeout: 2 * time.Second}, withSecret(), g.address)
	wantKeys(t, c)
	g.set("closed")
	_, err := c.Keys(t.Context(), anna, sha256Name)
	wantUnavailable(t, "while the one that knows is away", err)
	_, err = c.KeyMechanisms(t.Context())
	wantUnavailable(t, "mechanisms while the one that knows is away", err)
}

// TestMechanismsAreRemembered: however many ask, the database is walked through
// once in a while; what it could not say is not remembered.
func TestMechanismsAreRemembered(t *testing.T) {
	db := newKeyed(t)
	now := time.Unix(1_000_000, 0)
	m := newMechanisms(db)
	m.now = func() time.Time { return now }
	ask := func(want []string, walks int64) {
		t.Helper()
		got, err := m.get(t.Context())
		if err != nil || !slices.Equal(got, want) || db.walks.Load() != walks {
			t.Errorf("got %v, %v after %d walks, want %v after %d", got, err, db.walks.Load(), want, walks)
		}
	}
	db.set(func(d *memory) { d.fail = lookup.Unavailable("test", nil) })
	if _, err := m.get(t.Context()); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	db.set(func(d *memory) { d.fail = nil })
	ask([]string{sha256Name}, 2)
	db.mechanisms = nil
	now = now.Add(mechanismsFor - 1)
	ask([]string{sha256Name}, 2)
	now = now.Add(1)
	ask(nil, 3)
	ask(nil, 3)
	// Those who come together share a walk, and nobody waits longer than he may.
	now = now.Add(mechanismsFor)
	started, hold := make(chan struct{}), make(chan struct{})
	db.set(func(d *memory) { d.started, d.hold = started, hold })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := m.get(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	<-started
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.get(ended); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("behind the end: got %v", err)
	}
	close(hold)
	wg.Wait()
	if n := db.walks.Load(); n != 4 {
		t.Errorf("%d walks, want 4", n)
	}
}
