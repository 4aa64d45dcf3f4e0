package router_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/routertest"
	"switchyard/router/upstream"
)

// mirror is a network of nodes, by address; each has a word for a login, or is
// silent or gone.
type mirror struct {
	mu     sync.Mutex
	says   map[string]string
	logins []string // "address name", in their order
}

func (m *mirror) dial(ctx context.Context, _, address string) (net.Conn, error) {
	m.mu.Lock()
	says := m.says[address]
	m.mu.Unlock()
	switch says {
	case "refused":
		return nil, errors.New("connection refused")
	case "hangs":
		<-ctx.Done()
		return nil, ctx.Err()
	}
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		in := bufio.NewReader(far)
		if line, err := in.ReadString('\n'); err == nil {
			m.mu.Lock()
			m.logins = append(m.logins, address+" "+strings.TrimSpace(line))
			m.mu.Unlock()
		}
		switch says {
		case "lost":
			return
		case "silent":
		default:
			io.WriteString(far, says+"\r\n")
		}
		io.Copy(io.Discard, in)
	}()
	return near, nil
}

// knocker is a protocol that logs in at once, and tells the client where it is, or
// the kind of what went wrong.
type knocker struct{}

func (knocker) Name() string { return "knocker" }

func (knocker) Serve(ctx context.Context, s *router.Session) error {
	name, err := s.Conn.ReadLine(100)
	if err != nil {
		return err
	}
	account, err := s.Check(ctx, string(name), "sesame")
	if err != nil {
		return err
	}
	b, err := s.Open(ctx, account, upstream.IMAP, knock)
	if err != nil {
		return s.Conn.Line("%d", router.KindOf(err))
	}
	defer b.Close()
	return s.Conn.Line("%s", b.Node)
}

func knock(_ context.Context, b *router.Back, account lookup.Account) error {
	if err := b.Conn.Line("%s", account.Name); err != nil {
		return fmt.Errorf("%w: %w", router.ErrBackend, err)
	}
	line, err := b.Conn.ReadLine(100)
	word, arg, _ := strings.Cut(string(line), " ")
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", router.ErrBackend, err)
	case word == "welcome":
		return nil
	case word == "later":
		return fmt.Errorf("%w: later", router.ErrBackend)
	case word == "final":
		return router.Final(fmt.Errorf("%w: later", router.ErrBackend))
	case word == "owner":
		return &router.OwnerError{Node: arg}
	case word == "refused":
		return router.NewRefused("too many")
	case word == "stranger":
		return fmt.Errorf("%w: who is the proxy?", router.ErrOperator)
	}
	return fmt.Errorf("no such word: %q", line)
}

// pairs starts a proxy before node a at a:1 and node b at b:1, both of b2.
func pairs(t *testing.T, m *mirror, pipes *routertest.Pipes) *routertest.Proxy {
	cfg := config()
	cfg.Protocol, cfg.Net, cfg.Upstream.Dial = knocker{}, pipes, m.dial
	var nodes []upstream.Node
	for _, n := range []string{"a", "b"} {
		nodes = append(nodes, upstream.Node{Name: n, Services: map[upstream.Service]upstream.Endpoint{upstream.IMAP: {Address: n + ":1"}}})
	}
	cfg.Backends = []upstream.Backend{{Name: "b2", Nodes: nodes}}
	return routertest.Start(t, cfg)
}

// TestFailover: what each way of a node to fail costs its user, to the
// millisecond, where the user ends up, and which nodes are asked: never two at
// once, none twice, and only when it is the node's fault.
func TestFailover(t *testing.T) {
	notNow, refused := fmt.Sprint(int(router.Unavailable)), fmt.Sprint(int(router.Refused))
	for name, c := range map[string]struct {
		a, b  string
		want  string
		took  time.Duration
		asked string
	}{
		"well":                         {a: "welcome", b: "welcome", want: "a", asked: "a"},
		"refused connection":           {a: "refused", b: "welcome", want: "b", asked: "b"},
		"no connection":                {a: "hangs", b: "welcome", want: "b", took: 250 * time.Millisecond, asked: "b"},
		"silence":                      {a: "silent", b: "welcome", want: "b", took: 2 * time.Second, asked: "a b"},
		"lost":                         {a: "lost", b: "welcome", want: "b", asked: "a b"},
		"not now":                      {a: "later", b: "welcome", want: "b", asked: "a b"},
		"not now, twice":               {a: "later", b: "later", want: notNow, asked: "a b"},
		"lost, and the peer is silent": {a: "lost", b: "silent", want: notNow, took: 20 * time.Second, asked: "a b"},
		"lost, and no peer":            {a: "lost", b: "refused", want: notNow, asked: "a"},
		"nobody":                       {a: "refused", b: "refused", want: notNow},
		"the client had a part in it":  {a: "final", b: "welcome", want: notNow, asked: "a"},
		"a no is a no":                 {a: "refused too many", b: "welcome", want: refused, asked: "a"},
		"an operator's mistake":        {a: "stranger", b: "welcome", want: notNow, asked: "a"},
		"the other owns it":            {a: "owner b", b: "welcome", want: "b", asked: "a b"},
		"each says the other":          {a: "owner b", b: "owner a", want: notNow, asked: "a b"},
		"it says that it owns it":      {a: "owner a", b: "welcome", want: notNow, asked: "a"},
		"the owner is down":            {a: "owner b", b: "refused", want: notNow, asked: "a"},
		"an owner that is not there":   {a: "owner x", b: "welcome", want: "b", asked: "a b"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &mirror{says: map[string]string{"a:1": c.a, "b:1": c.b}}
				pipes := routertest.NewPipes()
				p := pairs(t, m, pipes)
				started := time.Now()
				got := strings.TrimSpace(string(pipes.Say([]byte("anna\r\n"), false)))
				if took := time.Since(started); got != c.want || took != c.took {
					t.Errorf("got %q behind %v, want %q behind %v", got, took, c.want, c.took)
				}
				p.Stop()
				synctest.Wait()
				var asked []string
				for _, l := range m.logins {
					node, _, _ := strings.Cut(l, ":")
					asked = append(asked, node)
				}
				if got := strings.Join(asked, " "); got != c.asked {
					t.Errorf("asked %q, want %q", got, c.asked)
				}
			})
		})
	}
}

// TestTheOwnerIsRemembered: the second login goes there at once.
func TestTheOwnerIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mirror{says: map[string]string{"a:1": "owner b", "b:1": "welcome"}}
		pipes := routertest.NewPipes()
		p := pairs(t, m, pipes)
		for range 2 {
			pipes.Say([]byte("anna\r\n"), false)
		}
		if e := p.Router.Explain(t.Context(), "anna").String(); !strings.Contains(e, "owner       b  [hint of a node]") || !strings.Contains(e, "b at b:1 (tls off), then a at") {
			t.Errorf("explained as\n%s", e)
		}
		p.Stop()
		synctest.Wait()
		if len(m.logins) != 3 {
			t.Errorf("got %v", m.logins)
		}
	})
}

// TestOneUsersTroubleStaysTheirs: a broken mailbox, however often it is tried,
// does not keep others from the node.
func TestOneUsersTroubleStaysTheirs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mirror{says: map[string]string{"a:1": "later", "b:1": "welcome"}}
		pipes := routertest.NewPipes()
		p := pairs(t, m, pipes)
		for range 10 {
			pipes.Say([]byte("anna\r\n"), false)
		}
		state := func(want upstream.State) {
			t.Helper()
			if got := p.Router.Backends()[0].Nodes[0].Services[0]; got.State != want {
				t.Errorf("got %+v, want %v", got, want)
			}
		}
		state(upstream.Up)
		m.mu.Lock()
		m.says["a:1"] = "welcome"
		m.mu.Unlock()
		if got := string(pipes.Say([]byte("anna\r\n"), false)); got != "a\r\n" {
			t.Errorf("got %q", got)
		}
		p.Stop()
		synctest.Wait()
	})
}
