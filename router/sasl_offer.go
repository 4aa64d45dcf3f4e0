package router

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"switchyard/lookup"
	"switchyard/router/sasl"
	"switchyard/router/upstream"
)

// passwords are the mechanisms that show the proxy a password.
var passwords = []string{sasl.Plain, sasl.Login}

// Mechanisms returns the mechanisms that the client may use now, the strongest
// first: those that every account can use that could log in here. None may be
// used where MayLogin is false: what follows a login is no less secret than a
// password. The result is shared: read it only.
func (s *Session) Mechanisms() []string {
	if !s.MayLogin() {
		return nil
	}
	o := &s.router.o.SASL
	if !o.SCRAM && o.Tokens == nil && o.Certificate == sasl.NoCertificate {
		return passwords
	}
	p := s.router.policies(s.service())
	var out []string
	state := s.Conn.TLS()
	if !p.forwards && o.Certificate != sasl.NoCertificate && sasl.HasCertificate(state) {
		out = append(out, sasl.External)
	}
	if len(p.terminated) > 0 && sasl.MayBind(state) {
		for _, mechanism := range p.terminated {
			out = append(out, mechanism+"-PLUS")
		}
	}
	out = append(out, p.scram...)
	if !p.forwards && o.Tokens != nil {
		out = append(out, sasl.OAuthBearer, sasl.XOAuth2)
	}
	return append(out, passwords...)
}

// offers reports whether a mechanism may be used now.
func (s *Session) offers(mechanism string) bool { return slices.Contains(s.Mechanisms(), mechanism) }

// policy is what the backends of a service, and the directory, let clients use.
// It never changes.
type policy struct {
	made time.Time

	forwards  bool // a backend wants the client's password
	unchecked bool // a backend judges passwords itself

	scram      []string // that every account can use
	terminated []string // those of them that never leave the proxy
}

// policyFor is how long a policy is used before it is looked whether it still
// holds: capabilities come with health checks and logins, and a greeting must not
// walk over all backends.
const policyFor = time.Second

// policyCache remembers them by service.
type policyCache struct {
	mu sync.Mutex
	by map[upstream.Service]*policy
}

func (r *Router) policies(service upstream.Service) *policy {
	c := &r.policyCache
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.by[service]; p != nil && time.Since(p.made) < policyFor {
		return p
	}
	p := r.makePolicy(service)
	if c.by == nil {
		c.by = make(map[upstream.Service]*policy)
	}
	c.by[service] = p
	return p
}

func (r *Router) makePolicy(service upstream.Service) *policy {
	p := &policy{made: time.Now()}
	backends := r.up.Backends(service)
	for _, b := range backends {
		l := r.up.LoginPolicy(b)
		p.forwards = p.forwards || l.Forward
		p.unchecked = p.unchecked || l.Unchecked
	}
	if !r.o.SASL.SCRAM || len(backends) == 0 {
		return p
	}
	keys := r.keyed.mechanisms()
	for _, mechanism := range []string{sasl.SCRAMSHA256, sasl.SCRAMSHA1} {
		hasKeys := slices.Contains(keys, mechanism)
		everywhere := true
		for _, b := range backends {
			if hasKeys && !r.up.LoginPolicy(b).Forward {
				continue
			}
			offer, heard := r.up.Offers(b, service)
			everywhere = everywhere && heard && relays(offer, mechanism)
		}
		if everywhere {
			p.scram = append(p.scram, mechanism)
		}
		if hasKeys && !p.forwards {
			p.terminated = append(p.terminated, mechanism)
		}
	}
	return p
}

// relays reports whether an exchange can be left to a server that offers so much.
// One that offers the -PLUS of the mechanism too would take a client that could
// bind itself, and was not told that it may, for the victim of an attack (RFC
// 5802 §6).
func relays(offer upstream.Offer, mechanism string) bool {
	return offersMechanism(offer, mechanism) && !offersMechanism(offer, mechanism+"-PLUS")
}

// offersMechanism looks where IMAP, POP3 and ManageSieve, and SMTP say it.
func offersMechanism(offer upstream.Offer, mechanism string) bool {
	return offer.Has("AUTH="+mechanism) ||
		slices.Contains(strings.Fields(offer["SASL"]), mechanism) || slices.Contains(strings.Fields(offer["AUTH"]), mechanism)
}

// Capabilities returns what all backends of the session's service offer, as far
// as they were heard; false while one was not. The result is shared: read it
// only.
func (s *Session) Capabilities() (upstream.Offer, bool) { return s.router.up.Capabilities(s.service()) }

// keysFor is how long the directory is not asked again for which mechanisms all
// accounts have keys: it may be a walk over all of them.
const keysFor = 30 * time.Second

// keysPatience bounds how long the first listener waits for the first answer.
const keysPatience = 2 * time.Second

// keyedCache remembers the mechanisms for which all accounts have keys.
type keyedCache struct {
	mu    sync.Mutex // held to ask
	asked time.Time
	known atomic.Pointer[[]string]
}

// follow asks the directory now, and from time to time until ctx ends. The
// returned function ends it, and waits for the end. Of several listeners one asks.
func (k *keyedCache) follow(ctx context.Context, r *Router) (wait func()) {
	holder, ok := r.dir.(lookup.KeyHolder)
	if !ok || !r.o.SASL.SCRAM {
		return func() {}
	}
	k.ask(ctx, holder, min(keysPatience, r.o.LookupTimeout))
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(keysFor)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				k.ask(ctx, holder, r.o.LookupTimeout)
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// ask asks the directory, unless that was done lately. While it cannot say, what
// was known holds.
func (k *keyedCache) ask(ctx context.Context, holder lookup.KeyHolder, timeout time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.asked) < keysFor/2 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	mechanisms, err := holder.KeyMechanisms(ctx)
	if err != nil {
		return
	}
	k.asked = time.Now()
	k.known.Store(&mechanisms)
}

func (k *keyedCache) mechanisms() []string {
	if known := k.known.Load(); known != nil {
		return *known
	}
	return nil
}

// keysOf asks the directory for an account's keys.
func (r *Router) keysOf(ctx context.Context, name, mechanism string) (lookup.Keys, error) {
	holder, ok := r.dir.(lookup.KeyHolder)
	if !ok {
		return lookup.Keys{}, lookup.ErrNoKeys
	}
	ctx, cancel := context.WithTimeout(ctx, r.o.LookupTimeout)
	defer cancel()
	return holder.Keys(ctx, name, mechanism)
}
