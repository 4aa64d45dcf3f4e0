package pop

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"switchyard/backend"
	"switchyard/backend/access"
	"switchyard/internal/message"
	"switchyard/lookup"
)

// directory is a fixed set of accounts; err, when set, is its only answer.
type directory struct {
	accounts map[string]lookup.Account
	err      error
}

const password = "sesame street"

func (d *directory) Lookup(_ context.Context, name string) (lookup.Account, error) {
	if d.err != nil {
		return lookup.Account{}, d.err
	}
	a, ok := d.accounts[name]
	if !ok {
		return a, lookup.ErrAbsent
	}
	return a, nil
}

func (d *directory) Check(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	a, err := d.Lookup(ctx, c.Name)
	if errors.Is(err, lookup.ErrAbsent) || err == nil && c.Password != password {
		return lookup.Account{}, lookup.ErrRejected
	}
	return a, err
}

// memory keeps one INBOX per account in memory, with faults on demand. What it
// does not implement panics.
type memory struct {
	backend.Store
	mu        sync.Mutex
	boxes     map[string]*inbox
	viewErr   error
	expungeEr error
	bodyErrAt int64 // reading a body fails behind that many bytes; 0: never
}

type inbox struct {
	messages []backend.Message
	bodies   map[backend.UID][]byte
	bodyRead int
}

type user struct {
	backend.User
	s    *memory
	name string
}

func (*user) Limit(backend.Quota) {}

func (s *memory) CreateUser(_ context.Context, account string, _ uint64) (backend.User, error) {
	return &user{s: s, name: account}, nil
}

func (s *memory) User(ctx context.Context, account string) (backend.User, error) {
	return s.CreateUser(ctx, account, 0)
}

func (s *memory) Generation(context.Context, string) (uint64, error) { return 0, backend.ErrNoUser }

// box returns the account's inbox; the caller holds mu.
func (s *memory) box(account string) *inbox {
	if s.boxes == nil {
		s.boxes = make(map[string]*inbox)
	}
	if s.boxes[account] == nil {
		s.boxes[account] = &inbox{bodies: make(map[backend.UID][]byte)}
	}
	return s.boxes[account]
}

// put stores a message; guid zero: one of its own.
func (s *memory) put(account, text string, guid byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.box(account)
	uid := backend.UID(len(b.bodies) + 1)
	if guid == 0 {
		guid = byte(100 + uid)
	}
	b.messages = append(b.messages, backend.Message{UID: uid, GUID: backend.GUID{guid}, Size: int64(len(text))})
	b.bodies[uid] = []byte(text)
}

func (s *memory) uids(account string) []backend.UID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []backend.UID
	for _, m := range s.box(account).messages {
		out = append(out, m.UID)
	}
	return out
}

func (u *user) Account() string { return u.name }

func (u *user) Mailbox(context.Context, string) (backend.Mailbox, error) {
	return backend.Mailbox{ID: backend.GUID{1}, Name: backend.Inbox}, nil
}

func (u *user) View(context.Context, backend.GUID) (backend.View, error) {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	return backend.View{Messages: backend.NewMessages(slices.Clone(u.s.box(u.name).messages))}, u.s.viewErr
}

func (u *user) Expunge(_ context.Context, _ backend.GUID, uids []backend.UID, onlyDeleted bool) ([]backend.UID, error) {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	if u.s.expungeEr != nil {
		return nil, u.s.expungeEr
	}
	if uids == nil || onlyDeleted {
		panic("expunge of what was not named")
	}
	b := u.s.box(u.name)
	b.messages = slices.DeleteFunc(b.messages, func(m backend.Message) bool { return slices.Contains(uids, m.UID) })
	return uids, nil
}

func (u *user) Body(_ context.Context, _ backend.GUID, uid backend.UID) (backend.Body, error) {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	b := u.s.box(u.name)
	if !slices.ContainsFunc(b.messages, func(m backend.Message) bool { return m.UID == uid }) {
		return nil, backend.ErrNoMessage
	}
	b.bodyRead++
	return &body{Reader: bytes.NewReader(b.bodies[uid]), failAt: u.s.bodyErrAt}, nil
}

func (u *user) Structure(context.Context, backend.GUID, backend.UID) (*message.Part, error) {
	panic("not used")
}

type body struct {
	*bytes.Reader
	failAt int64
}

func (b *body) Close() error { return nil }

func (b *body) ReadAt(p []byte, off int64) (int, error) {
	if b.failAt > 0 && off+int64(len(p)) > b.failAt {
		if off >= b.failAt {
			return 0, errors.New("checksum")
		}
		n, _ := b.Reader.ReadAt(p[:b.failAt-off], off)
		return n, errors.New("checksum")
	}
	return b.Reader.ReadAt(p, off)
}

var _ io.ReaderAt = (*body)(nil)

// certificate makes a self-signed certificate for 127.0.0.1 and a client
// configuration that trusts it.
func certificate(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pop test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
}

// fixture is a server with its accounts.
type fixture struct {
	t      testing.TB
	dir    *directory
	store  *memory
	gate   *access.Gate
	srv    *Server
	client *tls.Config
}

func newFixture(t testing.TB, o Options) *fixture {
	t.Helper()
	f := &fixture{t: t, store: &memory{}}
	f.dir = &directory{accounts: map[string]lookup.Account{
		"anna@example.test": {Name: "anna@example.test", Home: "b1"},
		"eve@example.test":  {Name: "eve@example.test", Home: "b1", Status: lookup.StatusSuspended},
		"far@example.test":  {Name: "far@example.test", Home: "b2"},
	}}
	var server *tls.Config
	server, f.client = certificate(t)
	if o.TLS == nil {
		o.TLS = server
	}
	f.gate = access.New("b1", f.dir, f.store, access.Options{
		ProxyName: "proxy", ProxySecret: "cluster secret",
		ProxyNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, DefaultDomain: "example.test",
	})
	f.srv = New(f.gate, NewMaildrops(), o)
	return f
}
