package upstream

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Offer is what a server says it can do: capabilities of IMAP, lines of POP3's
// CAPA and ManageSieve's list, keywords of EHLO. The keys are in capitals; the
// values are parameters, empty where there are none.
type Offer map[string]string

// Has reports whether a capability is offered.
func (o Offer) Has(name string) bool { _, ok := o[name]; return ok }

// They bound what is remembered of a node: more and longer capabilities than any
// server has.
const (
	maxOffer  = 200
	maxName   = 100
	maxParams = 1000
)

// clipped is the offer, or a part of it, of bounded size.
func (o Offer) clipped() Offer {
	if o.fits() {
		return o
	}
	out := make(Offer, min(len(o), maxOffer))
	for name, params := range o {
		if len(out) < maxOffer && len(name) <= maxName && len(params) <= maxParams {
			out[name] = params
		}
	}
	return out
}

func (o Offer) fits() bool {
	if len(o) > maxOffer {
		return false
	}
	for name, params := range o {
		if len(name) > maxName || len(params) > maxParams {
			return false
		}
	}
	return true
}

// is reports whether two offers are the same map.
func (o Offer) is(other Offer) bool {
	return reflect.ValueOf(o).UnsafePointer() == reflect.ValueOf(other).UnsafePointer()
}

// offered is what is known of a service of a node. It is part of its endpoint
// and outlives an update as that does.
type offered struct {
	mu     sync.Mutex
	before Offer // the login; nil: not heard yet
	behind Offer // the login; nil: not heard yet, or the service says nothing there

	parsed map[string]Offer // lists as they came
}

// maxParsed bounds the lists that are kept for a node, and maxList each of them.
// Most nodes have two: one of before the login and one of behind it.
const (
	maxParsed = 8
	maxList   = 4 << 10
)

// parse takes a list apart, unless that was done before.
func (o *offered) parse(list string, parse func(string) Offer) Offer {
	o.mu.Lock()
	defer o.mu.Unlock()
	if offer := o.parsed[list]; offer != nil {
		return offer
	}
	offer := parse(list)
	if len(list) > maxList {
		return offer
	}
	if o.parsed == nil || len(o.parsed) >= maxParsed {
		o.parsed = make(map[string]Offer)
	}
	o.parsed[strings.Clone(list)] = offer
	return offer
}

// Parse takes a list of what the node offers apart, or remembers how that came
// out: nodes say the same with each login. The result is shared: read only.
func (b *Back) Parse(list string, parse func(string) Offer) Offer {
	if b.pick == nil {
		return parse(list)
	}
	return b.pick.e.offers.parse(list, parse)
}

// effective is what the node offers, as far as a client who has not logged in
// yet is concerned: of mechanisms what it says before the login, of the rest what
// it says behind, when that is known.
func (o *offered) effective() Offer {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.behind == nil {
		return o.before
	}
	out := maps.Clone(o.behind)
	maps.DeleteFunc(out, func(name, _ string) bool { return strings.HasPrefix(name, "AUTH=") })
	for name, params := range o.before {
		if strings.HasPrefix(name, "AUTH=") {
			out[name] = params
		}
	}
	return out
}

// learn takes over what the node says, and reports whether it is new.
func (o *offered) learn(offer Offer, behind bool) bool {
	if len(offer) == 0 {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	at := &o.before
	if behind {
		at = &o.behind
	}
	if at.is(offer) || maps.Equal(*at, offer) {
		return false
	}
	*at = offer.clipped()
	return true
}

// Learn remembers what the node offers: before the login, or behind it. Only what
// was said under the connection's final protection may be learned. The offer is
// shared from then on: read only.
func (b *Back) Learn(offer Offer, behind bool) {
	if b.pick != nil && b.pick.e.offers.learn(offer, behind) {
		b.set.commons.forget(b.Service)
	}
}

// Offers returns what every node of a backend that was heard offers for a
// service; false when none was heard yet.
func (s *Set) Offers(backend string, service Service) (Offer, bool) {
	g := s.top.Load().backends[backend]
	if g == nil {
		return nil, false
	}
	var out Offer
	heard := false
	for _, n := range g.nodes {
		e := n.services[service]
		if e == nil {
			continue
		}
		own := e.offers.effective()
		switch {
		case own == nil:
		case !heard:
			out, heard = maps.Clone(own), true
		default:
			out = intersect(out, own)
		}
	}
	return out, heard
}

// Capabilities returns what all backends with a service offer there; false while
// one of them was not heard yet, and when there is none. Of parameters it is
// what is true everywhere: the smaller of two numbers, the words that two lists
// share. The result is shared: read it only.
func (s *Set) Capabilities(service Service) (Offer, bool) {
	top := s.top.Load()
	if c := s.commons.get(service, top); c != nil {
		return c.offer, c.known
	}
	round := s.commons.rounds.Load()
	c := &common{top: top}
	for name, g := range top.backends {
		if !g.offersService(service) {
			continue
		}
		own, heard := s.Offers(name, service)
		switch {
		case !heard:
			c.offer, c.known = nil, false
			s.commons.put(service, c, round)
			return nil, false
		case !c.known:
			c.offer, c.known = own, true
		default:
			c.offer = intersect(c.offer, own)
		}
	}
	s.commons.put(service, c, round)
	return c.offer, c.known
}

// Backends returns the names of the backends that have a service.
func (s *Set) Backends(service Service) []string {
	var out []string
	for name, g := range s.top.Load().backends {
		if g.offersService(service) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func (g *group) offersService(service Service) bool {
	return slices.ContainsFunc(g.nodes, func(m *member) bool { return m.services[service] != nil })
}

// intersect returns what both offer.
func intersect(a, b Offer) Offer {
	out := make(Offer, min(len(a), len(b)))
	for name, params := range a {
		other, ok := b[name]
		if !ok {
			continue
		}
		both, ok := shared(params, other)
		if ok {
			out[name] = both
		}
	}
	return out
}

// shared is what of two parameters is true for both; false when nothing is left
// of two lists. Numbers are bounds (SIZE 1000, LIMITS RCPTMAX=100), and so are
// moments (FUTURERELEASE 86400 2026-01-02T15:04:05Z): the smaller ones hold.
func shared(a, b string) (string, bool) {
	words, others := strings.Fields(a), strings.Fields(b)
	switch {
	case a == b:
		return a, true
	case len(words) == 0 && len(others) > 0 && isBound(others[0]):
		return b, true
	case len(others) == 0 && len(words) > 0 && isBound(words[0]):
		return a, true
	case len(words) == 0 || len(others) == 0:
		return "", true
	}
	if least, ok := leastOf(words, others); ok {
		return strings.Join(least, " "), true
	}
	both := slices.DeleteFunc(words, func(w string) bool { return !slices.Contains(others, w) })
	return strings.Join(both, " "), len(both) > 0
}

func isBound(word string) bool {
	_, err := strconv.ParseUint(word, 10, 64)
	return err == nil
}

// leastOf returns the smaller of each two bounds; false unless all are.
func leastOf(a, b []string) ([]string, bool) {
	if len(a) != len(b) {
		return nil, false
	}
	out := make([]string, len(a))
	for i := range a {
		name, value, named := strings.Cut(a[i], "=")
		other := b[i]
		if named {
			var ok bool
			if other, ok = strings.CutPrefix(other, name+"="); !ok {
				return nil, false
			}
		} else {
			name, value = "", a[i]
		}
		less, ok := lesser(value, other)
		if !ok {
			return nil, false
		}
		if named {
			less = name + "=" + less
		}
		out[i] = less
	}
	return out, true
}

// lesser returns the smaller of two numbers, of which zero is no bound (RFC 1870
// §5), or the earlier of two moments.
func lesser(a, b string) (string, bool) {
	n, errA := strconv.ParseUint(a, 10, 64)
	m, errB := strconv.ParseUint(b, 10, 64)
	if errA == nil && errB == nil {
		if n == 0 || m != 0 && m < n {
			return b, true
		}
		return a, true
	}
	s, errA := time.Parse(time.RFC3339, a)
	t, errB := time.Parse(time.RFC3339, b)
	if errA != nil || errB != nil {
		return "", false
	}
	if t.Before(s) {
		return b, true
	}
	return a, true
}

// common is what all backends offer, for one topology.
type common struct {
	top   *topology
	offer Offer
	known bool
}

// commons remembers them: they are asked for with each greeting and change
// hardly ever.
type commons struct {
	rounds atomic.Uint64
	mu     sync.Mutex
	by     map[Service]*common
}

func (c *commons) get(service Service, top *topology) *common {
	c.mu.Lock()
	defer c.mu.Unlock()
	if one := c.by[service]; one != nil && one.top == top {
		return one
	}
	return nil
}

// put remembers one, unless something was learned since the round in which it
// was begun.
func (c *commons) put(service Service, one *common, round uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rounds.Load() != round {
		return
	}
	if c.by == nil {
		c.by = make(map[Service]*common)
	}
	c.by[service] = one
}

func (c *commons) forget(service Service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rounds.Add(1)
	delete(c.by, service)
}
