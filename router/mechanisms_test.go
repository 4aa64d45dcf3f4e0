package router_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/xdg-go/scram"

	"switchyard/internal/tlsconf"
	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/imap"
	"switchyard/router/pop"
	"switchyard/router/routertest"
	"switchyard/router/sasl"
	"switchyard/router/sieve"
	"switchyard/router/smtp"
	"switchyard/router/upstream"
)

// dialect is how a protocol logs in, seen from both of its ends.
type dialect struct {
	service  upstream.Service
	protocol func() router.Protocol

	// The client's side.
	hello string // what is said before AUTH; "": nothing
	lines int    // lines before AUTH may be said
	auth  string // the command, with the mechanism and the initial response
	ask   string // begins a challenge
	yes   string
	no    string
	later string // "not now"
}

var dialects = map[string]dialect{
	"imap":        {upstream.IMAP, func() router.Protocol { return imap.New() }, "", 1, "a AUTHENTICATE %s %s", "+ ", "a OK", "a NO [AUTHENTICATIONFAILED]", "a NO [UNAVAILABLE]"},
	"pop3":        {upstream.POP3, func() router.Protocol { return pop.New() }, "", 1, "AUTH %s %s", "+ ", "+OK", "-ERR [AUTH]", "-ERR [SYS/TEMP]"},
	"submission":  {upstream.Submission, func() router.Protocol { return smtp.NewSubmission(smtp.Options{}) }, "EHLO c", 1, "AUTH %s %s", "334 ", "235", "535", "454"},
	"managesieve": {upstream.ManageSieve, func() router.Protocol { return sieve.New(sieve.Options{}) }, "", 0, "AUTHENTICATE %q %q", `"`, "OK", "NO ", "NO (TRYLATER)"},
}

// authPeer is a client.
type authPeer struct {
	t    *testing.T
	d    dialect
	conn net.Conn
	r    *bufio.Reader
}

func (d dialect) dial(t *testing.T, p *routertest.Proxy, config *tls.Config) *authPeer {
	t.Helper()
	var conn net.Conn = p.Dial()
	if config != nil {
		tc := tls.Client(conn, config)
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		conn = tc
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	c := &authPeer{t, d, conn, bufio.NewReader(conn)}
	c.greeting()
	return c
}

// greeting reads what comes before the login, and returns it.
func (c *authPeer) greeting() string {
	c.t.Helper()
	var all []string
	for {
		line := c.line()
		all = append(all, line)
		switch {
		case c.d.service == upstream.ManageSieve && !strings.HasPrefix(line, "OK"):
		case c.d.service == upstream.Submission && strings.HasPrefix(line, "220"):
			fmt.Fprintf(c.conn, "EHLO c\r\n")
		case strings.HasPrefix(line, "250-"):
		default:
			return strings.Join(all, "\n")
		}
	}
}

func (c *authPeer) line() string {
	c.t.Helper()
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("read: %q, %v", line, err)
	}
	return strings.TrimRight(line, "\r\n")
}

// authenticate goes through a mechanism and returns the final line.
func (c *authPeer) authenticate(mechanism string, first string, respond func(challenge string) string) string {
	c.t.Helper()
	fmt.Fprintf(c.conn, c.d.auth+"\r\n", mechanism, base64.StdEncoding.EncodeToString([]byte(first)))
	for {
		line := c.line()
		encoded, asked := strings.CutPrefix(line, c.d.ask)
		if !asked || strings.HasPrefix(line, "+OK") {
			return line
		}
		challenge, err := base64.StdEncoding.DecodeString(strings.Trim(encoded, `"`))
		if err != nil {
			c.t.Fatalf("challenge %q: %v", line, err)
		}
		answer := base64.StdEncoding.EncodeToString([]byte(respond(string(challenge))))
		if c.d.service == upstream.ManageSieve {
			answer = `"` + answer + `"`
		}
		fmt.Fprintf(c.conn, "%s\r\n", answer)
	}
}

// scramTalk logs in with SCRAM and reports whether the server has proved itself.
func (c *authPeer) scramTalk(mechanism, user, password string, start func(*scram.Client) *scram.ClientConversation) (final string, valid bool) {
	c.t.Helper()
	client, err := scram.SHA256.NewClient(user, password, "")
	if err != nil {
		c.t.Fatal(err)
	}
	conv := start(client)
	first, err := conv.Step("")
	if err != nil {
		c.t.Fatal(err)
	}
	final = c.authenticate(mechanism, first, func(challenge string) string {
		answer, err := conv.Step(challenge)
		if err != nil {
			c.t.Errorf("client: %v", err)
		}
		return answer
	})
	return final, conv.Valid()
}

func unbound(c *scram.Client) *scram.ClientConversation { return c.NewConversation() }

// keyedDirectory is a directory that holds SCRAM keys of its passwords.
type keyedDirectory struct {
	*routertest.Directory
	keys map[string]lookup.Keys
	all  bool // every account has keys
}

func newKeyed(t *testing.T, accounts ...lookup.Account) *keyedDirectory {
	t.Helper()
	d := &keyedDirectory{routertest.NewDirectory(), make(map[string]lookup.Keys), true}
	for _, a := range accounts {
		d.Add(a, "sesame")
		d.keys[a.Name] = keysOf(t, a.Name, "sesame")
	}
	return d
}

func storedOf(t *testing.T, user, password string) scram.StoredCredentials {
	t.Helper()
	client, err := scram.SHA256.NewClient(user, password, "")
	if err != nil {
		t.Fatal(err)
	}
	stored, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "0123456789abcdef", Iters: 4096})
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func keysOf(t *testing.T, user, password string) lookup.Keys {
	s := storedOf(t, user, password)
	return lookup.Keys{Mechanism: sasl.SCRAMSHA256, Iterations: s.Iters, Salt: []byte(s.Salt), StoredKey: s.StoredKey, ServerKey: s.ServerKey}
}

func (d *keyedDirectory) Keys(_ context.Context, name, mechanism string) (lookup.Keys, error) {
	if _, err := d.Lookup(context.Background(), name); err != nil {
		return lookup.Keys{}, err
	}
	if k, ok := d.keys[name]; ok && k.Mechanism == mechanism {
		return k, nil
	}
	return lookup.Keys{}, lookup.ErrNoKeys
}

func (d *keyedDirectory) KeyMechanisms(context.Context) ([]string, error) {
	if d.all && len(d.keys) > 0 {
		return []string{sasl.SCRAMSHA256}, nil
	}
	return nil, nil
}

// store is a node that logs anyone in, in its protocol's way, and remembers what
// it heard. It offers PLAIN, and SCRAM where it has passwords.
type store struct {
	t         *testing.T
	d         dialect
	addr      string
	passwords map[string]string // for SCRAM and PLAIN; nil: anyone
	extra     string            // capabilities beside its own

	mu    sync.Mutex
	heard []string // logins, as "mechanism message"
}

func newStore(t *testing.T, d dialect, passwords map[string]string) *store {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &store{t: t, d: d, addr: ln.Addr().String(), passwords: passwords}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer conn.Close(); s.serve(conn) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return s
}

func (s *store) alsoOffer(extra string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.extra = extra
}

func (s *store) logins() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.heard...)
}

func (s *store) mechanisms() string {
	if s.passwords == nil {
		return "PLAIN"
	}
	return "PLAIN SCRAM-SHA-256"
}

func (s *store) offer(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.d.service {
	case upstream.IMAP:
		fmt.Fprintf(conn, "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=%s%s] store\r\n", strings.ReplaceAll(s.mechanisms(), " ", " AUTH="), s.extra)
	case upstream.POP3:
		fmt.Fprintf(conn, "+OK store\r\n")
	case upstream.Submission:
		fmt.Fprintf(conn, "220 store\r\n")
	case upstream.ManageSieve:
		fmt.Fprintf(conn, "\"SASL\" %q\r\n\"SIEVE\" \"fileinto\"\r\nOK\r\n", s.mechanisms())
	}
}

// serve speaks just enough of each protocol.
func (s *store) serve(conn net.Conn) {
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(conn)
	s.offer(conn)
	in := false
	user := ""
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		words := strings.Fields(line)
		if len(words) == 0 {
			return
		}
		if s.d.service == upstream.IMAP && len(words) > 1 && !in {
			words = words[1:]
		}
		reply := func(yes bool) {
			if in = yes; yes {
				fmt.Fprintf(conn, "%s\r\n", map[upstream.Service]string{upstream.IMAP: "L OK [CAPABILITY IMAP4rev1 IDLE]", upstream.POP3: "+OK", upstream.Submission: "235 2.7.0", upstream.ManageSieve: `OK "in"`}[s.d.service])
			} else {
				fmt.Fprintf(conn, "%s\r\n", map[upstream.Service]string{upstream.IMAP: "L NO [AUTHENTICATIONFAILED] no", upstream.POP3: "-ERR [AUTH] no", upstream.Submission: "535 5.7.8 no", upstream.ManageSieve: "NO \"no\""}[s.d.service])
			}
		}
		switch verb := strings.ToUpper(words[0]); {
		case in:
			fmt.Fprintf(conn, "in: %s", line)
		case verb == "EHLO":
			fmt.Fprintf(conn, "250-store\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250 AUTH %s\r\n", s.mechanisms())
		case verb == "CAPA":
			fmt.Fprintf(conn, "+OK\r\nUIDL\r\nSASL %s\r\n.\r\n", s.mechanisms())
		case verb == "ID":
			fmt.Fprintf(conn, "I OK\r\n")
		case verb == "QUIT", verb == "LOGOUT":
			return
		case verb == "USER":
			user = words[1]
			fmt.Fprintf(conn, "+OK\r\n")
		case verb == "PASS":
			s.note("PASS " + user + " " + words[1])
			reply(s.passwords == nil || s.passwords[user] == words[1])
		case verb == "AUTH", verb == "AUTHENTICATE":
			reply(s.login(conn, r, strings.Trim(words[1], `"`), strings.Trim(words[2], `"`)))
		default:
			s.t.Errorf("store: unexpected %q", line)
			return
		}
	}
}

func (s *store) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = append(s.heard, what)
}

func (s *store) login(conn net.Conn, r *bufio.Reader, mechanism, encoded string) bool {
	message, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		s.t.Errorf("store: %v", err)
		return false
	}
	s.note(mechanism + " " + strings.ReplaceAll(string(message), "\x00", " "))
	if mechanism == "PLAIN" {
		part := strings.Split(string(message), "\x00")
		return s.passwords == nil || s.passwords[part[1]] == part[2]
	}
	server, err := scram.HashGeneratorFcn(sha256.New).NewServer(func(user string) (scram.StoredCredentials, error) {
		password, ok := s.passwords[user]
		if !ok {
			return scram.StoredCredentials{}, errors.New("nobody")
		}
		return storedOf(s.t, user, password), nil
	})
	if err != nil {
		s.t.Error(err)
		return false
	}
	conv := server.NewConversation()
	for {
		challenge, err := conv.Step(string(message))
		if err != nil {
			return false
		}
		text := base64.StdEncoding.EncodeToString([]byte(challenge))
		if s.d.service == upstream.ManageSieve {
			text += `"`
		}
		fmt.Fprintf(conn, "%s%s\r\n", s.d.ask, text)
		line, err := r.ReadString('\n')
		if err != nil {
			return false
		}
		if conv.Done() {
			return conv.Valid()
		}
		if message, err = base64.StdEncoding.DecodeString(strings.Trim(strings.TrimSpace(line), `"`)); err != nil {
			return false
		}
	}
}

func (s *store) backend(name string, l upstream.Login) upstream.Backend {
	return upstream.Backend{Name: name, Login: l, Nodes: []upstream.Node{{Name: name + "a", Services: map[upstream.Service]upstream.Endpoint{
		s.d.service: {Address: s.addr, TLS: tlsconf.Off},
	}}}}
}

var saslSecret = []byte("a secret of the whole cluster")

// mechanismRig is a proxy of one protocol before stores.
func mechanismRig(t *testing.T, d dialect, dir router.Directory, o sasl.Options, change func(*routertest.Config), backends ...upstream.Backend) (*routertest.Proxy, *upstream.Set) {
	t.Helper()
	var set *upstream.Set
	c := routertest.Config{
		Protocol: d.protocol(), Directory: dir, Backends: backends,
		Listener: router.Listener{AllowCleartextLogin: true},
		Options:  router.Options{DefaultDomain: "example.test", SASL: o, MaxFailures: 5},
		Upstream: upstream.Options{CheckUp: 20 * time.Millisecond, CheckDown: 10 * time.Millisecond},
		Wrap:     func(up router.Upstream) router.Upstream { set = up.(*upstream.Set); return up },
	}
	if change != nil {
		change(&c)
	}
	return routertest.Start(t, c), set
}

// heard checks the nodes once, so that their capabilities are known.
func heard(t *testing.T, set *upstream.Set, service upstream.Service) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- set.Run(ctx) }()
	deadline := time.Now().Add(20 * time.Second)
	for {
		if _, known := set.Capabilities(service); known {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the backends were not heard")
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func anna() lookup.Account { return lookup.Account{Name: "anna@example.test", Home: "b1"} }

func expectLine(t *testing.T, why, got, want string) {
	t.Helper()
	if !strings.HasPrefix(got, want) {
		t.Errorf("%s: got %q, want %q…", why, got, want)
	}
}

// TestSCRAMTerminated: where the directory holds keys, SCRAM logs in on every
// protocol without a password anywhere; a wrong proof and a name that nobody has
// look alike and are counted alike.
func TestSCRAMTerminated(t *testing.T) {
	for name, d := range dialects {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, d, nil)
			suspended := lookup.Account{Name: "sus@example.test", Home: "b1", Status: lookup.StatusSuspended}
			p, _ := mechanismRig(t, d, newKeyed(t, anna(), suspended), sasl.Options{SCRAM: true, Secret: saslSecret}, nil, s.backend("b1", upstream.Login{}))
			c := d.dial(t, p, nil)
			for _, who := range []string{"anna", "nobody"} {
				got, valid := c.scramTalk(sasl.SCRAMSHA256, who, "wrong", unbound)
				expectLine(t, who+", wrong", got, d.no)
				if valid {
					t.Error("the server has proved itself to a stranger")
				}
			}
			got, _ := c.scramTalk(sasl.SCRAMSHA256, "sus", "sesame", unbound)
			if strings.HasPrefix(got, d.yes) || !strings.Contains(got, "suspended") {
				t.Errorf("suspended: got %q", got)
			}
			got, valid := c.scramTalk(sasl.SCRAMSHA256, "Anna@Example.test", "sesame", unbound)
			expectLine(t, "anna", got, d.yes)
			if !valid {
				t.Error("the server has not proved itself")
			}
			if got, want := fmt.Sprint(s.logins()), "[PLAIN anna@example.test proxy "+routertest.Secret+"]"; got != want {
				t.Errorf("the backend heard %s, want %s", got, want)
			}
			c.conn.Close()
			line := p.Session()
			if line["user"] != "anna@example.test" || line["mechanism"] != sasl.SCRAMSHA256 {
				t.Errorf("session: %v", line)
			}
		})
	}
}

// TestSCRAMExhausted: wrong proofs use up a connection's tries like wrong
// passwords.
func TestSCRAMExhausted(t *testing.T) {
	d := dialects["imap"]
	s := newStore(t, d, nil)
	p, _ := mechanismRig(t, d, newKeyed(t, anna()), sasl.Options{SCRAM: true, Secret: saslSecret}, func(c *routertest.Config) { c.Options.MaxFailures = 2 }, s.backend("b1", upstream.Login{}))
	c := d.dial(t, p, nil)
	for range 2 {
		got, _ := c.scramTalk(sasl.SCRAMSHA256, "anna", "wrong", unbound)
		expectLine(t, "wrong", got, d.no)
	}
	expectLine(t, "the end", c.line(), "* BYE Too many failed logins")
	if line := p.Session(); line["result"] != "login rejected" {
		t.Errorf("session: %v", line)
	}
}

// TestSCRAMInvented: the salt that is told of a name that nobody has is the same
// on all proxies, and each time.
func TestSCRAMInvented(t *testing.T) {
	d := dialects["imap"]
	s := newStore(t, d, nil)
	salts := make(map[string]int)
	for range 2 {
		p, _ := mechanismRig(t, d, newKeyed(t, anna()), sasl.Options{SCRAM: true, Secret: saslSecret}, nil, s.backend("b1", upstream.Login{}))
		for range 2 {
			c := d.dial(t, p, nil)
			c.authenticate(sasl.SCRAMSHA256, "n,,n=nobody,r=abc", func(challenge string) string {
				_, rest, _ := strings.Cut(challenge, ",")
				salts[rest]++
				return "c=biws,r=abc,p=AAAA"
			})
			c.conn.Close()
		}
	}
	if len(salts) != 1 {
		t.Errorf("got %v", salts)
	}
}

// TestSCRAMPlus: a client can bind its login to the TLS connection, by either
// binding, and one that is bound to another connection is refused; where nothing
// can be bound to, -PLUS is not offered.
func TestSCRAMPlus(t *testing.T) {
	server, client := routertest.TLS(t)
	leaf := func(state tls.ConnectionState, name string) scram.ChannelBinding {
		switch name {
		case "tls-exporter":
			data, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
			if err != nil {
				t.Fatal(err)
			}
			return scram.ChannelBinding{Type: "tls-exporter", Data: data}
		default:
			sum := sha256.Sum256(state.PeerCertificates[0].Raw)
			return scram.ChannelBinding{Type: "tls-server-end-point", Data: sum[:]}
		}
	}
	for name, d := range dialects {
		for _, binding := range []string{"tls-exporter", "tls-server-end-point"} {
			t.Run(name+" "+binding, func(t *testing.T) {
				s := newStore(t, d, nil)
				p, _ := mechanismRig(t, d, newKeyed(t, anna()), sasl.Options{SCRAM: true, Secret: saslSecret}, func(c *routertest.Config) {
					c.Listener.TLS, c.Listener.Config = tlsconf.Implicit, server
				}, s.backend("b1", upstream.Login{}))
				c := d.dial(t, p, client)
				state := c.conn.(*tls.Conn).ConnectionState()
				bind := func(cb scram.ChannelBinding) func(*scram.Client) *scram.ClientConversation {
					return func(c *scram.Client) *scram.ClientConversation { return c.NewConversationWithChannelBinding(cb) }
				}
				wrong := leaf(state, binding)
				wrong.Data = append([]byte{wrong.Data[0] ^ 1}, wrong.Data[1:]...)
				got, _ := c.scramTalk(sasl.SCRAMSHA256Plus, "anna", "sesame", bind(wrong))
				expectLine(t, "bound elsewhere", got, d.no)
				got, _ = c.scramTalk(sasl.SCRAMSHA256, "anna", "sesame", func(c *scram.Client) *scram.ClientConversation { return c.NewConversationAdvertisingChannelBinding() })
				expectLine(t, "told that it cannot bind", got, d.no)
				got, valid := c.scramTalk(sasl.SCRAMSHA256Plus, "anna", "sesame", bind(leaf(state, binding)))
				expectLine(t, "bound here", got, d.yes)
				if !valid {
					t.Error("the server has not proved itself")
				}
				c.conn.Close()
			})
		}
	}
	d := dialects["imap"]
	s := newStore(t, d, nil)
	p, _ := mechanismRig(t, d, newKeyed(t, anna()), sasl.Options{SCRAM: true, Secret: saslSecret}, nil, s.backend("b1", upstream.Login{}))
	p.Play(`
		S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=SCRAM-SHA-256 AUTH=PLAIN AUTH=LOGIN] *
		C: a AUTHENTICATE SCRAM-SHA-256-PLUS
		S: a NO Mechanism is not supported
		C: b AUTHENTICATE SCRAM-SHA-256 cD10bHMtZXhwb3J0ZXIsLG49YSxyPXg=
		S: b BAD *`)
}

// TestSCRAMRelayed: where the directory holds no keys and the backends speak
// SCRAM, the exchange is theirs: the proxy sees no password and needs none. A
// wrong proof is the backend's to refuse and is counted here; a name that nobody
// has is refused in the same way without a backend.
func TestSCRAMRelayed(t *testing.T) {
	for name, d := range dialects {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, d, map[string]string{"anna@example.test": "sesame"})
			dir := routertest.NewDirectory()
			dir.Add(anna(), "nobody knows")
			p, set := mechanismRig(t, d, dir, sasl.Options{SCRAM: true, Secret: saslSecret}, nil, s.backend("b1", upstream.Login{}))
			heard(t, set, d.service)
			c := d.dial(t, p, nil)
			for _, who := range []string{"anna@example.test", "nobody@example.test"} {
				got, _ := c.scramTalk(sasl.SCRAMSHA256, who, "wrong", unbound)
				expectLine(t, who+", wrong", got, d.no)
			}
			got, valid := c.scramTalk(sasl.SCRAMSHA256, "anna@example.test", "sesame", unbound)
			expectLine(t, "anna", got, d.yes)
			if !valid {
				t.Error("the backend has not proved itself to the client")
			}
			for _, login := range s.logins() {
				if !strings.HasPrefix(login, "SCRAM-SHA-256 n,,n=anna@example.test,r=") {
					t.Errorf("the backend heard %q", login)
				}
			}
			c.conn.Close()
		})
	}
}

// TestSCRAMNotOffered: SCRAM is offered when every account can use it, and not
// when one backend wants passwords, or does not relay, or would take a client for
// a victim because it offers -PLUS.
func TestSCRAMNotOffered(t *testing.T) {
	d := dialects["imap"]
	const with, without = "AUTH=SCRAM-SHA-256 AUTH=PLAIN", " AUTH=PLAIN"
	for name, c := range map[string]struct {
		keys  bool
		other upstream.Login
		extra string
		relay map[string]string
		want  string
	}{
		"keys":                              {keys: true, want: with},
		"keys, and one wants passwords":     {keys: true, other: upstream.Login{Forward: true}, want: without},
		"keys, and that one relays":         {keys: true, other: upstream.Login{Forward: true}, relay: map[string]string{"x": "y"}, want: with},
		"no keys, nobody relays":            {want: without},
		"no keys, all relay":                {relay: map[string]string{"x": "y"}, want: with},
		"no keys, all relay, one with PLUS": {relay: map[string]string{"x": "y"}, extra: " AUTH=SCRAM-SHA-256-PLUS", want: without},
	} {
		t.Run(name, func(t *testing.T) {
			one, two := newStore(t, d, c.relay), newStore(t, d, c.relay)
			two.alsoOffer(c.extra)
			var dir router.Directory = routertest.NewDirectory()
			if c.keys {
				dir = newKeyed(t, anna())
			}
			p, set := mechanismRig(t, d, dir, sasl.Options{SCRAM: true, Secret: saslSecret}, nil, one.backend("b1", upstream.Login{}), two.backend("b2", c.other))
			heard(t, set, d.service)
			conn := p.Dial()
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(line, c.want) || c.want == without && strings.Contains(line, "SCRAM") {
				t.Errorf("got %q", line)
			}
		})
	}
}
