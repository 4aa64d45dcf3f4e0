package imap

import (
	"context"
	"errors"
	"slices"
	"strings"

	"switchyard/backend"
	"switchyard/backend/imap/syntax"
)

// listing is a LIST command (RFC 9051 §6.3.9, RFC 5258, RFC 5819, RFC 6154).
type listing struct {
	extended bool // it has selection or return options, or several patterns

	subscribed, special, recursive bool // selection options
	reference                      string
	patterns                       []string
	bytes                          int // of the patterns
	showSubscribed                 bool
	statusItems                    []string
}

// folder is one line of the answer to LIST.
type folder struct {
	name       string
	mailbox    *backend.Mailbox // nil: it does not exist
	children   bool             // a mailbox is below it
	subscribed bool
	childInfo  bool // a name below it is subscribed (RECURSIVEMATCH)
}

func (s *session) list(ctx context.Context) (reply, error) {
	l, err := s.listArguments()
	if err != nil {
		return reply{}, err
	}
	if len(l.patterns) == 1 && l.patterns[0] == "" && !l.extended {
		// RFC 9051 §6.3.9: an empty pattern asks for the separator.
		s.untagged(`LIST (\Noselect) "/" ""`)
		return ok("Done")
	}
	folders, err := s.folders(ctx)
	if err != nil {
		return reply{}, err
	}
	for _, f := range folders {
		if !l.wants(f) {
			continue
		}
		s.sendFolder(&l, f)
		if l.statusItems != nil && f.mailbox != nil {
			err := s.sendStatus(ctx, *f.mailbox, l.statusItems)
			if errors.Is(err, backend.ErrNoMailbox) {
				continue // deleted meanwhile
			}
			if err != nil {
				return reply{}, err
			}
		}
	}
	return ok("Done")
}

// listArguments reads LIST's arguments.
func (s *session) listArguments() (listing, error) {
	var l listing
	if err := s.lex.SP(); err != nil {
		return l, err
	}
	if s.lex.Peek() == '(' {
		l.extended = true
		if err := s.lex.List(true, func() error { return s.selectionOption(&l) }); err != nil {
			return l, err
		}
		if l.recursive && !l.subscribed { // RFC 5258 §3.1
			return l, syntax.Errorf("RECURSIVEMATCH alone selects nothing")
		}
		if err := s.lex.SP(); err != nil {
			return l, err
		}
	}
	var err error
	if l.reference, err = s.lex.Mailbox(s.out.UTF8); err != nil {
		return l, err
	}
	if err := s.lex.SP(); err != nil {
		return l, err
	}
	if s.lex.Peek() == '(' {
		l.extended = true
		err = s.lex.List(false, func() error { return s.pattern(&l) })
	} else {
		err = s.pattern(&l)
	}
	if err == nil && s.lex.Is(' ') {
		l.extended = true
		err = s.returnOptions(&l)
	}
	if err != nil {
		return l, err
	}
	return l, s.lex.End()
}

// maxPatterns bounds what a LIST compares: the bytes of all its patterns.
const maxPatterns = 1000

func (s *session) pattern(l *listing) error {
	p, err := s.lex.Pattern(s.out.UTF8)
	if err != nil {
		return err
	}
	if l.bytes += len(l.reference) + len(p) + 1; l.bytes > maxPatterns {
		return syntax.Errorf("More or longer patterns than the server compares")
	}
	if p != "" || l.extended {
		p = l.reference + p
	}
	l.patterns = append(l.patterns, p)
	return nil
}

func (s *session) selectionOption(l *listing) error {
	word, err := s.lex.Word()
	if err != nil {
		return err
	}
	switch word {
	case "SUBSCRIBED":
		l.subscribed, l.showSubscribed = true, true
	case "REMOTE": // there are none
	case "RECURSIVEMATCH":
		l.recursive = true
	case "SPECIAL-USE":
		l.special = true
	default:
		return syntax.Errorf("An unknown LIST selection option")
	}
	return nil
}

func (s *session) returnOptions(l *listing) error {
	if word, err := s.lex.Word(); err != nil || word != "RETURN" {
		return syntax.Errorf("RETURN is missing")
	}
	if err := s.lex.SP(); err != nil {
		return err
	}
	return s.lex.List(true, func() error {
		word, err := s.lex.Word()
		if err != nil {
			return err
		}
		switch word {
		case "SUBSCRIBED":
			l.showSubscribed = true
		case "CHILDREN", "SPECIAL-USE": // always shown
		case "STATUS":
			if err := s.lex.SP(); err != nil {
				return err
			}
			l.statusItems, err = s.statusItems()
			return err
		default:
			return syntax.Errorf("An unknown LIST return option")
		}
		return nil
	})
}

// folders returns the user's mailboxes, and the subscribed names that are
// none, in order.
func (s *session) folders(ctx context.Context) ([]folder, error) {
	mailboxes, err := s.user.Mailboxes(ctx)
	if err != nil {
		return nil, err
	}
	subscribed, err := s.user.Subscriptions(ctx)
	if err != nil {
		return nil, err
	}
	parents := make(map[string]bool)
	informed := make(map[string]bool)
	for i := range mailboxes {
		eachParent(mailboxes[i].Name, func(p string) { parents[p] = true })
	}
	want := make(map[string]bool, len(subscribed))
	for _, name := range subscribed {
		want[name] = true
		eachParent(name, func(p string) { informed[p] = true })
	}
	out := make([]folder, 0, len(mailboxes))
	for i := range mailboxes {
		name := mailboxes[i].Name
		out = append(out, folder{name: name, mailbox: &mailboxes[i], children: parents[name], subscribed: want[name], childInfo: informed[name]})
		delete(want, name)
	}
	for _, name := range subscribed {
		if want[name] {
			out = append(out, folder{name: name, children: parents[name], subscribed: true, childInfo: informed[name]})
		}
	}
	return out, nil
}

func eachParent(name string, f func(string)) {
	for i := strings.LastIndex(name, backend.Separator); i > 0; i = strings.LastIndex(name[:i], backend.Separator) {
		f(name[:i])
	}
}

// wants reports whether a folder is part of the answer.
func (l *listing) wants(f folder) bool {
	switch {
	case l.subscribed && !f.subscribed && (!l.recursive || !f.childInfo):
		return false
	case !l.subscribed && f.mailbox == nil:
		return false
	case l.special && (f.mailbox == nil || f.mailbox.Use == ""):
		return false
	}
	return slices.ContainsFunc(l.patterns, func(p string) bool { return matches(p, f.name) })
}

// matches compares a name with a pattern. INBOX is matched in any case.
func matches(pattern, name string) bool {
	return syntax.Match(pattern, name) || name == backend.Inbox && syntax.Match(strings.ToUpper(pattern), name)
}

func (s *session) sendFolder(l *listing, f folder) {
	var flags []string
	if f.mailbox == nil {
		flags = append(flags, `\NonExistent`)
	}
	if l.showSubscribed && f.subscribed {
		flags = append(flags, `\Subscribed`)
	}
	if f.children {
		flags = append(flags, `\HasChildren`)
	} else {
		flags = append(flags, `\HasNoChildren`)
	}
	if f.mailbox != nil && f.mailbox.Use != "" {
		flags = append(flags, f.mailbox.Use)
	}
	s.out.Raw("* LIST ").FlagList(flags).Raw(` "/" `).Mailbox(f.name)
	if l.recursive && f.childInfo {
		s.out.Raw(` ("CHILDINFO" ("SUBSCRIBED"))`)
	}
	s.out.End()
}

// lsub serves LSUB (RFC 3501 §6.3.9).
func (s *session) lsub(ctx context.Context) (reply, error) {
	var l listing
	var err error
	if l.reference, err = s.mailboxArgument(); err != nil {
		return reply{}, err
	}
	if err := s.lex.SP(); err != nil {
		return reply{}, err
	}
	if err := s.pattern(&l); err != nil {
		return reply{}, err
	}
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	names, err := s.user.Subscriptions(ctx)
	if err != nil {
		return reply{}, err
	}
	shown := make(map[string]bool)
	for _, name := range names {
		if matches(l.patterns[0], name) {
			shown[name] = true
			s.out.Raw(`* LSUB () "/" `).Mailbox(name).End()
		}
	}
	// A name that % hides stands for those below it.
	for _, name := range names {
		if shown[name] || !strings.Contains(l.patterns[0], "%") {
			continue
		}
		eachParent(name, func(parent string) {
			if !shown[parent] && !slices.Contains(names, parent) && matches(l.patterns[0], parent) {
				shown[parent] = true
				s.out.Raw(`* LSUB (\Noselect) "/" `).Mailbox(parent).End()
			}
		})
	}
	return ok("Done")
}
