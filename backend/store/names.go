package store

import (
	"slices"
	"strings"
	"unicode/utf8"

	"switchyard/backend"
)

// Bounds of what a user can ask for.
const (
	maxName      = 1000 // bytes of a mailbox name
	maxDepth     = 32   // levels of it
	maxMailboxes = 10_000
	maxSubs      = 20_000
	maxKeywords  = 64 // on one message
	maxKeyword   = 64 // bytes of one
	maxUse       = 32
)

// canonicalName checks a mailbox name and spells INBOX as it is kept, alone or
// as the first level.
func canonicalName(name string) (string, error) {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) {
		return "", backend.ErrMailboxName
	}
	if strings.ContainsFunc(name, func(r rune) bool {
		return r < ' ' || r >= 0x7f && r < 0xa0 || r == '*' || r == '%' || r == 0x2028 || r == 0x2029
	}) {
		return "", backend.ErrMailboxName
	}
	levels := strings.Split(name, backend.Separator)
	if len(levels) > maxDepth || slices.Contains(levels, "") {
		return "", backend.ErrMailboxName
	}
	if strings.EqualFold(levels[0], backend.Inbox) {
		name = backend.Inbox + name[len(backend.Inbox):]
	}
	return name, nil
}

// parents returns the names above a name, the highest first.
func parents(name string) []string {
	var above []string
	for i := range len(name) {
		if name[i] == '/' {
			above = append(above, name[:i])
		}
	}
	return above
}

// below reports whether name lies under parent.
func below(name, parent string) bool { return strings.HasPrefix(name, parent+backend.Separator) }

// systemFlags are the flags with a backslash that a message can have.
var systemFlags = [...]string{
	backend.FlagSeen, backend.FlagAnswered, backend.FlagFlagged, backend.FlagDeleted, backend.FlagDraft,
}

// canonicalFlags checks flags, spells system flags canonically, and sorts them.
// Keywords that differ in case only are one (RFC 5788 §2): the first stays.
func canonicalFlags(flags []string) ([]string, error) {
	if len(flags) == 0 {
		return nil, nil
	}
	out := make([]string, 0, len(flags))
	for _, f := range flags {
		f, err := canonicalFlag(f)
		if err != nil {
			return nil, err
		}
		if !hasFlag(out, f) {
			out = append(out, f)
		}
	}
	if tooManyKeywords(out) {
		return nil, backend.ErrTooMany
	}
	slices.Sort(out)
	return out, nil
}

func canonicalFlag(f string) (string, error) {
	if strings.HasPrefix(f, `\`) {
		for _, known := range systemFlags {
			if strings.EqualFold(f, known) {
				return known, nil
			}
		}
		return "", backend.ErrFlag
	}
	if f == "" || len(f) > maxKeyword {
		return "", backend.ErrFlag
	}
	for i := range len(f) { // RFC 9051 §9: flag-keyword is an atom
		if c := f[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`(){%*"\]`, c) >= 0 {
			return "", backend.ErrFlag
		}
	}
	return f, nil
}

// hasFlag reports whether flags have f, in any case.
func hasFlag(flags []string, f string) bool {
	for _, have := range flags {
		if len(have) == len(f) && (have == f || strings.EqualFold(have, f)) {
			return true
		}
	}
	return false
}

func tooManyKeywords(flags []string) bool {
	n := 0
	for _, f := range flags {
		if f[0] != '\\' {
			n++
		}
	}
	return n > maxKeywords
}

// changeFlags returns what flags become; it is flags itself when nothing
// changes.
func changeFlags(flags []string, op backend.FlagOp, given []string) []string {
	switch op {
	case backend.FlagsReplace:
		if len(flags) == len(given) && !slices.ContainsFunc(given, func(f string) bool { return !hasFlag(flags, f) }) {
			return flags
		}
		return given
	case backend.FlagsAdd:
		var out []string
		for _, f := range given {
			if hasFlag(flags, f) {
				continue
			}
			if out == nil {
				out = slices.Clone(flags)
			}
			out = append(out, f)
		}
		if out == nil {
			return flags
		}
		slices.Sort(out)
		return out
	case backend.FlagsRemove:
		if !slices.ContainsFunc(flags, func(f string) bool { return hasFlag(given, f) }) {
			return flags
		}
		return slices.DeleteFunc(slices.Clone(flags), func(f string) bool { return hasFlag(given, f) })
	}
	return flags
}
