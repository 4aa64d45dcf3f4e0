package console

import (
	"context"
	"net/http"
	"net/netip"
	"strconv"

	"switchyard/router"

	"go.uber.org/zap"
)

// match makes the description of sessions that a request has in mind.
func (o *order) match() (router.Match, error) {
	m := router.Match{Session: o.Session, User: o.User, Backend: o.Backend, Node: o.Node, Protocol: o.Protocol}
	if o.Client == "" {
		return m, nil
	}
	if a, err := netip.ParseAddr(o.Client); err == nil {
		a = a.Unmap()
		m.Client = netip.PrefixFrom(a, a.BitLen())
		return m, nil
	}
	network, err := netip.ParsePrefix(o.Client)
	if err != nil {
		return m, bad("client %q is neither an address nor a network", o.Client)
	}
	m.Client = network.Masked()
	return m, nil
}

// list is the answer to GET /sessions.
type list struct {
	Total    int       `json:"total"`
	Sessions []session `json:"sessions"` // the oldest first

	// Incomplete says which older processes could not be asked, and why.
	Incomplete string `json:"incomplete,omitempty"`
}

// session is an entry of GET /sessions.
type session struct {
	router.Live
	Process int `json:"process,omitempty"` // the older process that has it
}

// sessions lists live sessions: ?user=, client=, backend=, node=, protocol=,
// session=, and limit= for the first so many.
func (c *Console) sessions(r *http.Request) (any, error) {
	q := r.URL.Query()
	o := order{
		Session: q.Get("session"), User: q.Get("user"), Client: q.Get("client"),
		Backend: q.Get("backend"), Node: q.Get("node"), Protocol: q.Get("protocol"),
	}
	m, err := o.match()
	if err != nil {
		return nil, err
	}
	m.All = true
	out := list{Sessions: []session{}}
	for _, one := range c.router.Find(m) {
		out.Sessions = append(out.Sessions, session{Live: one})
	}
	c.addSessions(r.Context(), q, &out)
	out.Total = len(out.Sessions)
	if text := q.Get("limit"); text != "" {
		limit, err := strconv.Atoi(text)
		if err != nil || limit < 0 {
			return nil, bad("limit %q is not a number", text)
		}
		out.Sessions = out.Sessions[:min(limit, out.Total)]
	}
	return out, nil
}

// route explains where an account goes: ?user=, and format=text.
func (c *Console) route(r *http.Request) (any, error) {
	q := r.URL.Query()
	user := q.Get("user")
	if user == "" {
		return nil, bad("user is missing")
	}
	e := c.router.Explain(r.Context(), user)
	switch format := q.Get("format"); format {
	case "text":
		return text(e.String()), nil
	case "", "json":
		return e, nil
	default:
		return nil, bad("format %q is neither json nor text", format)
	}
}

// backend is an entry of GET /backends.
type backend struct {
	router.Backend
	Sessions map[string]int `json:"sessions"` // by node
}

// backends is the answer to GET /backends.
type backends struct {
	Draining   bool      `json:"draining"` // the proxy itself
	Backends   []backend `json:"backends"`
	Incomplete string    `json:"incomplete,omitempty"` // see list
}

// backends describes the backends, and how many sessions are joined to each
// node.
func (c *Console) backends(r *http.Request) (any, error) {
	out := backends{Draining: c.router.Ready() != nil}
	at := c.router.Joined()
	for _, b := range c.router.Backends() {
		one := backend{b, make(map[string]int)}
		for _, n := range b.Nodes {
			one.Sessions[n.Name] = at[router.Leg{Backend: b.Name, Node: n.Name}]
		}
		out.Backends = append(out.Backends, one)
	}
	c.addBackends(r.Context(), &out)
	return out, nil
}

// begun says how many sessions an order concerns. They end behind the answer,
// at the router's pace.
type begun struct {
	Sessions   int    `json:"sessions"`
	Incomplete string `json:"incomplete,omitempty"` // see list
}

// count returns how many sessions m describes that are not ending yet.
func (c *Console) count(m router.Match) (n int) {
	for _, s := range c.router.Find(m) {
		if !s.Ending {
			n++
		}
	}
	return n
}

// kick ends the sessions that are described.
func (c *Console) kick(_ context.Context, o order) (begun, error) {
	m, err := o.match()
	switch {
	case err != nil:
		return begun{}, err
	case o.Proxy:
		return begun{}, bad("proxy is for drain")
	case o.All:
		return begun{}, bad("all is for forget")
	case m.Empty():
		return begun{}, bad("say whom: session, user, client, backend, node or protocol")
	}
	reason := o.Reason
	if reason == "" {
		reason = "kicked by the administrator"
	}
	n := c.count(m)
	c.begin(func(ctx context.Context) { c.router.Kick(ctx, m, reason) })
	return begun{Sessions: n}, nil
}

// place refuses an order that is about more or less than one place.
func (o *order) place() error {
	switch {
	case o.Session != "" || o.User != "" || o.Client != "" || o.Protocol != "" || o.Reason != "" || o.All:
		return bad("only proxy, or backend and node, can be drained")
	case o.Proxy == (o.Backend != ""), o.Proxy && o.Node != "":
		return bad(`say what: {"proxy":true}, or {"backend":"…"} with or without "node"`)
	}
	return nil
}

// drain takes a node, a backend or the proxy itself out of service, before the
// answer, and ends the sessions there, behind it.
func (c *Console) drain(_ context.Context, o order) (begun, error) {
	if err := o.place(); err != nil {
		return begun{}, err
	}
	if o.Proxy {
		c.router.SetDraining(true)
		n := c.count(router.Match{All: true})
		c.begin(func(ctx context.Context) {
			if err := c.router.Drain(ctx); err != nil {
				c.log.Info("the drain was left", zap.Error(err))
			}
		})
		return begun{Sessions: n}, nil
	}
	if err := c.router.SetNodeDraining(o.Backend, o.Node, true); err != nil {
		return begun{}, err
	}
	n := c.count(router.Match{Backend: o.Backend, Node: o.Node})
	c.begin(func(ctx context.Context) {
		if _, err := c.router.DrainNode(ctx, o.Backend, o.Node); err != nil {
			c.log.Error("cannot drain", zap.Error(err))
		}
	})
	return begun{Sessions: n}, nil
}

// undrain takes it back into service.
func (c *Console) undrain(_ context.Context, o order) (begun, error) {
	if err := o.place(); err != nil {
		return begun{}, err
	}
	if o.Proxy {
		c.router.SetDraining(false)
		return begun{}, nil
	}
	return begun{}, c.router.SetNodeDraining(o.Backend, o.Node, false)
}

// forget drops what is cached of an account, or of all, and ends the sessions that
// the directory does not bear out any more: an account's before the answer, all
// others behind it.
func (c *Console) forget(ctx context.Context, o order) (begun, error) {
	if o != (order{User: o.User, All: o.All}) || (o.User == "") != o.All {
		return begun{}, bad(`say {"user":"…"}, or {"all":true}`)
	}
	if o.All {
		c.router.ForgetAll()
		return begun{}, nil
	}
	n, err := c.router.Forget(ctx, o.User)
	if err != nil {
		return begun{}, bad("%v", err)
	}
	return begun{Sessions: n}, nil
}
