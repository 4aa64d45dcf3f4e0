package sieve

import (
	"slices"
	"strconv"
	"strings"
)

// offer is what a backend announces about its scripts.
type offer struct {
	extensions []string
	notify     []string // methods
	redirects  string   // a number; "" when it does not say
}

// readOffer takes what is ours to pass on out of a backend's capabilities. What
// cannot be an extension's name is left out.
func readOffer(caps map[string]string) offer {
	o := offer{extensions: names(caps["SIEVE"]), notify: names(caps["NOTIFY"])}
	if n, err := strconv.ParseUint(caps["MAXREDIRECTS"], 10, 16); err == nil {
		o.redirects = strconv.FormatUint(n, 10)
	}
	return o
}

// names splits a list of names.
func names(list string) []string {
	return slices.DeleteFunc(strings.Fields(list), func(s string) bool {
		return strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) >= 0
	})
}

// learn remembers what a backend announces.
func (p *Protocol) learn(backend string, o offer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.learned[backend] = o
}

// offer returns what is true wherever a client may end up, as far as that is
// known: the intersection of what the backends announce.
func (p *Protocol) offer() offer {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out offer
	first := true
	for _, o := range p.learned {
		if first {
			out = offer{slices.Clone(o.extensions), slices.Clone(o.notify), o.redirects}
			first = false
			continue
		}
		out.extensions = both(out.extensions, o.extensions)
		out.notify = both(out.notify, o.notify)
		out.redirects = fewer(out.redirects, o.redirects)
	}
	if len(p.o.Extensions) > 0 {
		out.extensions = p.o.Extensions
	}
	slices.Sort(out.extensions)
	return out
}

func both(a, b []string) []string {
	return slices.DeleteFunc(a, func(s string) bool { return !slices.Contains(b, s) })
}

// fewer returns the smaller of two limits; nothing when one is not known.
func fewer(a, b string) string {
	n, errA := strconv.Atoi(a)
	m, errB := strconv.Atoi(b)
	if errA != nil || errB != nil {
		return ""
	}
	return strconv.Itoa(min(n, m))
}
