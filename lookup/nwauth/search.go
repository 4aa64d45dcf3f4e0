package nwauth

import (
	"context"
	"slices"
	"strings"
	"unicode/utf8"

	"switchyard/lookup"
)

// Search finds names, in order. A pattern with * (any characters) or ? (one
// character) must match the whole name; one without is looked for anywhere in
// it. It returns at most max names (zero: all) beginning with the from-th, how
// many match altogether, and how many users there are.
//
// Errors: lookup.ErrUnavailable.
func (db *DB) Search(ctx context.Context, pattern string, from, max int) (names []string, found, total int, err error) {
	if err := db.whole(); err != nil {
		return nil, 0, 0, err
	}
	pattern = strings.ToLower(pattern)
	matches := func(name string) bool { return strings.Contains(name, pattern) }
	if strings.ContainsAny(pattern, "*?") {
		matches = func(name string) bool { return wildMatch(pattern, name) }
	}
	for l := range db.table.Load().all() {
		if total++; matches(l.name) {
			names = append(names, l.name)
		}
		if total%1000 == 0 && ctx.Err() != nil {
			return nil, 0, 0, lookup.Unavailable("search the user database", ctx.Err())
		}
	}
	slices.Sort(names)
	found = len(names)
	from = min(from, found)
	names = names[from:]
	if max > 0 && len(names) > max {
		names = names[:max]
	}
	return slices.Clip(names), found, total, nil
}

// wildMatch matches in time proportional to the product of the lengths at
// most, whatever the pattern.
func wildMatch(pattern, s string) bool {
	// Where to go on when the present attempt fails: behind the last star,
	// with one more character of s given to it.
	retryPattern, retryS := "", ""
	starred := false
	for s != "" {
		p, pn := utf8.DecodeRuneInString(pattern)
		c, cn := utf8.DecodeRuneInString(s)
		switch {
		case pattern != "" && p == '*':
			pattern = pattern[pn:]
			retryPattern, retryS, starred = pattern, s, true
		case pattern != "" && (p == '?' || p == c && pattern[:pn] == s[:cn]):
			pattern, s = pattern[pn:], s[cn:]
		case starred:
			_, n := utf8.DecodeRuneInString(retryS)
			retryS = retryS[n:]
			pattern, s = retryPattern, retryS
		default:
			return false
		}
	}
	return strings.Trim(pattern, "*") == ""
}
