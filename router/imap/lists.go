package imap

import (
	"strings"
	"sync"

	"switchyard/router/upstream"
)

// maxLists bounds the capability lists that are remembered, and maxList each of
// them. Most clusters know two: one of before the login and one of behind it.
const (
	maxLists = 32
	maxList  = 2 << 10
)

// lists are capability lists of backends as they came, taken apart once: the same
// ones come with each login. It is safe for concurrent use.
type lists struct {
	mu sync.Mutex
	by map[string]upstream.Offer
}

// of returns what a list offers, in capitals. The result is shared: read only.
func (l *lists) of(list string) upstream.Offer {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known := l.by[list]; known != nil {
		return known
	}
	offer := make(upstream.Offer)
	for name := range strings.FieldsSeq(list) {
		offer[strings.ToUpper(name)] = ""
	}
	if offer.Has("LITERAL+") {
		offer["LITERAL-"] = "" // RFC 7888 §5: the one includes the other
	}
	if len(list) > maxList {
		return offer
	}
	if l.by == nil || len(l.by) >= maxLists {
		l.by = make(map[string]upstream.Offer)
	}
	l.by[strings.Clone(list)] = offer
	return offer
}

// code reads [CAPABILITY …] at the start of a response's text; nil when it is not
// there.
func (l *lists) code(text string) upstream.Offer {
	const code = "[CAPABILITY "
	if len(text) < len(code) || !strings.EqualFold(text[:len(code)], code) {
		return nil
	}
	list, _, found := strings.Cut(text[len(code):], "]")
	if !found {
		return nil
	}
	return l.of(list)
}
