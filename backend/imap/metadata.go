package imap

import (
	"context"
	"maps"
	"slices"
	"strings"

	"switchyard/backend"
	"switchyard/backend/imap/syntax"
)

// Annotations (RFC 5464) are properties of the mailbox, or of the account for
// the server's, under this prefix and the entry's name in lower case. Mailboxes
// are seen by their owner alone, so that /shared and /private differ in name
// only.
const metadataPrefix = "annotation"

// The bounds of annotations.
const (
	maxEntries    = 100       // in one command
	maxAnnotation = 64 << 10  // bytes of one value
	maxEntryName  = 300       // bytes
	noMaxSize     = 1<<32 - 1 // MAXSIZE's absence
)

// metadataOf returns what a mailbox name of a command means: a mailbox, or with
// the empty name the account (RFC 5464 §4.2).
func (s *session) metadataOf(ctx context.Context, name string) (backend.GUID, error) {
	if name == "" {
		return backend.GUID{}, nil
	}
	m, err := s.user.Mailbox(ctx, name)
	return m.ID, err
}

// entry reads an entry's name (RFC 5464 §4.1).
func (s *session) entry() (string, error) {
	name, err := s.lex.AString()
	if err != nil {
		return "", err
	}
	name = strings.ToLower(name)
	for i := range len(name) {
		if c := name[i]; c < ' ' || c >= 0x7f || c == '*' || c == '%' {
			return "", syntax.Errorf("A character that no entry has")
		}
	}
	scoped := strings.HasPrefix(name, "/private/") || strings.HasPrefix(name, "/shared/")
	if !scoped || strings.Contains(name, "//") || strings.HasSuffix(name, "/") || len(name) > maxEntryName {
		return "", syntax.Errorf("An entry is /private/… or /shared/…")
	}
	return name, nil
}

// wanted is what GETMETADATA asks for.
type wanted struct {
	maxSize uint32
	depth   int // how far below an entry; less than zero: all
	mailbox string
	entries []string
}

// getMetadata serves GETMETADATA (RFC 5464 §4.2).
func (s *session) getMetadata(ctx context.Context) (reply, error) {
	w, err := s.metadataArguments()
	if err != nil {
		return reply{}, err
	}
	id, err := s.metadataOf(ctx, w.mailbox)
	if err != nil {
		return reply{}, err
	}
	have, err := s.user.Properties(ctx, id, metadataPrefix+"/")
	if err != nil {
		return reply{}, err
	}
	longest, sent := 0, false
	for _, key := range slices.Sorted(maps.Keys(have)) {
		name, value := key[len(metadataPrefix):], have[key]
		if !w.covers(name) {
			continue
		}
		if uint64(len(value)) > uint64(w.maxSize) {
			longest = max(longest, len(value))
			continue
		}
		if sent {
			s.out.Raw(" ")
		} else {
			s.out.Raw("* METADATA ").Mailbox(w.mailbox).Raw(" (")
		}
		sent = true
		s.out.AString(name).Raw(" ")
		s.annotation(value)
	}
	if sent {
		s.out.Raw(")").End()
	}
	if longest > 0 {
		return okCode("METADATA LONGENTRIES "+itoa(int64(longest)), "Some are longer"), nil
	}
	return ok("Done")
}

// annotation writes a value: a string, or where it has NUL a literal8.
func (s *session) annotation(value []byte) {
	switch {
	case slices.Contains(value, 0):
		s.out.LiteralHeader(int64(len(value)), true).Bytes(value)
	default:
		s.out.String(string(value))
	}
}

// covers reports whether an entry is asked for.
func (w *wanted) covers(name string) bool {
	for _, e := range w.entries {
		rest, found := strings.CutPrefix(name, e)
		switch {
		case !found || rest != "" && rest[0] != '/':
		case rest == "", w.depth < 0, w.depth == 1 && strings.Count(rest, "/") == 1:
			return true
		}
	}
	return false
}

func (s *session) metadataArguments() (wanted, error) {
	w := wanted{maxSize: noMaxSize}
	if err := s.lex.SP(); err != nil {
		return w, err
	}
	// The options stand before the mailbox in the grammar, and behind it in
	// the RFC's examples and so in clients.
	if s.lex.Peek() == '(' {
		if err := s.lex.List(false, func() error { return s.metadataOption(&w) }); err != nil {
			return w, err
		}
		if err := s.lex.SP(); err != nil {
			return w, err
		}
	}
	var err error
	if w.mailbox, err = s.lex.Mailbox(s.out.UTF8); err != nil {
		return w, err
	}
	if err := s.lex.SP(); err != nil {
		return w, err
	}
	options := false
	one := func() error {
		if c := s.lex.Peek(); c == 'D' || c == 'd' || c == 'M' || c == 'm' {
			options = true
			return s.metadataOption(&w)
		}
		name, err := s.entry()
		if len(w.entries) == maxEntries {
			return syntax.Errorf("More than %d entries", maxEntries)
		}
		w.entries = append(w.entries, name)
		return err
	}
	for {
		if s.lex.Peek() == '(' {
			err = s.lex.List(false, one)
		} else {
			err = one()
		}
		if err != nil {
			return w, err
		}
		if len(w.entries) > 0 || !options {
			return w, s.lex.End()
		}
		if err := s.lex.SP(); err != nil {
			return w, err
		}
	}
}

func (s *session) metadataOption(w *wanted) error {
	word, err := s.lex.Word()
	if err != nil {
		return err
	}
	if err := s.lex.SP(); err != nil {
		return err
	}
	switch word {
	case "MAXSIZE":
		w.maxSize, err = s.lex.Number()
		return err
	case "DEPTH":
		depth, err := s.lex.Word()
		if err != nil {
			return err
		}
		d, known := map[string]int{"0": 0, "1": 1, "INFINITY": -1}[depth]
		if !known {
			return syntax.Errorf("DEPTH is 0, 1 or infinity")
		}
		w.depth = d
		return nil
	}
	return syntax.Errorf("An unknown GETMETADATA option")
}

// setMetadata serves SETMETADATA (RFC 5464 §4.3): all entries or none.
func (s *session) setMetadata(ctx context.Context) (reply, error) {
	name, err := s.mailboxArgument()
	if err != nil {
		return reply{}, err
	}
	if err := s.lex.SP(); err != nil {
		return reply{}, err
	}
	values := make(map[string][]byte)
	tooBig, ofAll := false, false
	err = s.lex.List(false, func() error {
		entry, err := s.entry()
		if err != nil {
			return err
		}
		if err := s.lex.SP(); err != nil {
			return err
		}
		value, err := s.annotationValue()
		if err != nil {
			return err
		}
		if len(values) == maxEntries {
			return syntax.Errorf("More than %d entries", maxEntries)
		}
		tooBig = tooBig || len(value) > maxAnnotation
		ofAll = ofAll || name == "" && strings.HasPrefix(entry, "/shared/")
		values[metadataPrefix+entry] = value
		return nil
	})
	if err == nil {
		err = s.lex.End()
	}
	if err != nil {
		return reply{}, err
	}
	switch {
	case tooBig:
		return no("METADATA MAXSIZE "+itoa(maxAnnotation), "A value is too long")
	case ofAll: // the server's own are not one user's to set
		return no("NOPERM", "The server's annotations are the administrator's")
	}
	id, err := s.metadataOf(ctx, name)
	if err != nil {
		return reply{}, err
	}
	if err := s.user.SetProperties(ctx, id, values); err == backend.ErrTooMany {
		return no("METADATA TOOMANY", "Too many annotations")
	} else if err != nil {
		return reply{}, err
	}
	return ok("Done")
}

// annotationValue reads a string, a literal8 or NIL, which is nil.
func (s *session) annotationValue() ([]byte, error) {
	if s.lex.Peek() == '~' {
		lit, err := s.lex.Literal()
		if err != nil {
			return nil, err
		}
		text, err := s.lex.Fetch(lit)
		return []byte(text), err
	}
	text, given, err := s.lex.NString()
	if err != nil || !given {
		return nil, err
	}
	return []byte(text), nil
}
