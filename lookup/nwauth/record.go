package nwauth

import (
	"fmt"
	"strings"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
	"switchyard/lookup/nwauth/hash"
)

// RefusedError says that a change or a record can never be accepted, and why.
type RefusedError = netwin.RefusedError

// maxHash is the longest password hash in bytes.
const maxHash = 1024

// Record is one user of the database.
type Record struct {
	Name string // clean, see lookup.CleanName

	// Hash is what a password is verified with, see package hash. Nobody can log in
	// to an account without one.
	Hash string

	// Labels are everything else, under lower-case labels.
	Labels map[string]string
}

// String never shows the hash.
func (r Record) String() string { return fmt.Sprintf("record of %q", r.Name) }

// GoString never shows the hash.
func (r Record) GoString() string { return r.String() }

// Account returns the record as the directory's vocabulary has it. Attributes
// is the record's own Labels.
func (r Record) Account() (lookup.Account, error) {
	return netwin.Account(r.Name, r.Labels)
}

// check says why a record cannot be kept. Errors: RefusedError.
func (r Record) check() error {
	if err := netwin.CheckName(r.Name); err != nil {
		return err
	}
	if err := checkHash(r.Hash); err != nil {
		return err
	}
	if err := netwin.CheckLabels(r.Labels); err != nil {
		return err
	}
	return checkMeanings(r.Labels)
}

func checkHash(stored string) error {
	switch {
	case len(stored) > maxHash:
		return netwin.Refuse("the password hash is longer than %d bytes", maxHash)
	case strings.ContainsAny(stored, `: "`) || netwin.HasControl(stored):
		return netwin.Refuse("the password hash has a colon, space, quote or control character")
	}
	return nil
}

// checkMeanings refuses values that would silently mean nothing.
func checkMeanings(labels map[string]string) error {
	if _, err := netwin.ParseGeneration(labels[netwin.Generation]); err != nil {
		return err
	}
	_, err := netwin.ParseQuota(labels[netwin.Quota])
	return err
}

// appendRecord writes a record as its line, without the line end:
//
//	user@domain:hash:label="value" label="value"
//
// It has been through check.
func appendRecord(dst []byte, r Record) []byte {
	dst = append(dst, r.Name...)
	dst = append(dst, ':')
	dst = append(dst, r.Hash...)
	dst = append(dst, ':')
	return netwin.AppendLabels(dst, r.Labels)
}

// ParseRecord reads the line of one record. Errors: RefusedError, which never
// shows the line, since it holds a hash.
func ParseRecord(line string) (Record, error) {
	if len(line) > netwin.MaxLine {
		return Record{}, netwin.Refuse("the line is longer than %d bytes", netwin.MaxLine)
	}
	typed, rest, found := strings.Cut(line, ":")
	if !found {
		return Record{}, netwin.Refuse("there is no colon behind the name")
	}
	name, err := lookup.CleanName(typed, "")
	if err != nil {
		return Record{}, netwin.Refuse("%v", err)
	}
	// A record without labels may end behind the hash.
	hash, written, _ := strings.Cut(rest, ":")
	labels, err := netwin.ParseLabels(written)
	if err != nil {
		return Record{}, err
	}
	r := Record{Name: name, Hash: hash, Labels: labels}
	return r, r.check()
}

// canonicalLine is the quick way to read a line that appendRecord wrote: it
// finds the rest behind the name, and looks at every byte, and takes nothing
// apart. ok is false for any other line; then parseLine decides.
func canonicalLine(text string) (name, rest string, ok bool) {
	if len(text) > netwin.MaxLine || !isASCIIName(text) {
		return "", "", false
	}
	name, rest, _ = strings.Cut(text, ":")
	stored, labels, found := strings.Cut(rest, ":")
	if !found || checkHash(stored) != nil || !netwin.Canonical(labels) {
		return "", "", false
	}
	if _, err := netwin.ParseGeneration(netwin.Value(labels, netwin.Generation)); err != nil {
		return "", "", false
	}
	if _, err := netwin.ParseQuota(netwin.Value(labels, netwin.Quota)); err != nil {
		return "", "", false
	}
	return name, rest, true
}

// isASCIIName reports whether a line begins with the plainest of clean names,
// user@domain in lower case, and a colon.
func isASCIIName(text string) bool {
	at := -1
	for i := range min(len(text), 256) {
		switch c := text[i]; {
		case c == ':':
			return at > 0 && i > at+1
		case c == '@':
			if at >= 0 {
				return false
			}
			at = i
		case c <= ' ' || c >= 0x7f || c >= 'A' && c <= 'Z' || c == '"' || c == '\\' || c == '`':
			return false
		}
	}
	return false
}

// parseLine reads a line of the base or the log. The name and the state's rest
// are parts of one string.
func parseLine(text string) (string, state, error) {
	if name, rest, ok := canonicalLine(text); ok {
		st := state{rest: rest}
		var err error
		st.generation, err = netwin.ParseGeneration(st.label(netwin.Generation))
		return name, st, err
	}
	if strings.HasPrefix(text, ":") {
		name, generation, err := parseDeletion(text)
		return name, state{generation: generation}, err
	}
	r, err := ParseRecord(text)
	if err != nil {
		return "", state{}, err
	}
	return r.state()
}

// state is the state of an account that has this record, and its name: parts of
// one string. Errors: RefusedError.
func (r Record) state() (name string, st state, err error) {
	if err := r.check(); err != nil {
		return "", state{}, err
	}
	if st.generation, err = netwin.ParseGeneration(r.Labels[netwin.Generation]); err != nil {
		return "", state{}, err
	}
	text := string(appendRecord(nil, r))
	st.rest = text[len(r.Name)+1:]
	return text[:len(r.Name)], st, nil
}

// A deletion is kept while the deleted account had a generation, so that an
// account made anew under that name goes on from there: a backend refuses
// generations older than it has seen. Its line has no name in front of the
// first colon, which no record can have:
//
//	:user@domain:homegen="7"
func appendDeletion(dst []byte, name string, generation uint64) []byte {
	dst = append(dst, ':')
	dst = append(dst, name...)
	dst = append(dst, ':')
	if generation > 0 {
		dst = fmt.Appendf(dst, `%s="%d"`, netwin.Generation, generation)
	}
	return dst
}

func parseDeletion(line string) (name string, generation uint64, err error) {
	name, written, found := strings.Cut(strings.TrimPrefix(line, ":"), ":")
	if !found {
		return "", 0, netwin.Refuse("there is no colon behind the deleted name")
	}
	if err := netwin.CheckName(name); err != nil {
		return "", 0, err
	}
	labels, err := netwin.ParseLabels(written)
	if err != nil {
		return "", 0, err
	}
	generation, err = netwin.ParseGeneration(labels[netwin.Generation])
	return name, generation, err
}

// Matches reports whether a password is the one of a stored hash; see package
// hash.
func Matches(stored, password string) bool { return hash.Matches(stored, password) }
