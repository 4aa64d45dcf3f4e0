package imap

import (
	"context"
	"errors"
	"slices"
	"strings"

	"switchyard/backend"
	"switchyard/backend/imap/syntax"
)

// mailboxArgument reads a space and a mailbox name.
func (s *session) mailboxArgument() (string, error) {
	if err := s.lex.SP(); err != nil {
		return "", err
	}
	return s.lex.Mailbox(s.out.UTF8)
}

// onlyMailbox reads a command that has nothing but a mailbox name.
func (s *session) onlyMailbox() (string, error) {
	name, err := s.mailboxArgument()
	if err != nil {
		return "", err
	}
	return name, s.lex.End()
}

// create serves CREATE, with the special use of RFC 6154 §3.
func (s *session) create(ctx context.Context) (reply, error) {
	name, err := s.mailboxArgument()
	if err != nil {
		return reply{}, err
	}
	use := ""
	if s.lex.Is(' ') {
		if err := s.lex.List(false, func() error { return s.createParameter(&use) }); err != nil {
			return reply{}, err
		}
	}
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	if use != "" && !specialUse(use) {
		return no("USEATTR", "The special use is not supported")
	}
	// RFC 9051 §6.3.4: a separator at the end announces children.
	name = strings.TrimSuffix(name, backend.Separator)
	if name == backend.Inbox {
		return no("ALREADYEXISTS", "INBOX exists always")
	}
	mailbox, err := s.user.Create(ctx, name, canonicalUse(use))
	if err != nil {
		return reply{}, err
	}
	return okCode("MAILBOXID ("+mailbox.ID.String()+")", "Created"), nil
}

func (s *session) createParameter(use *string) error {
	word, err := s.lex.Word()
	if err != nil {
		return err
	}
	if word != "USE" {
		return syntax.Errorf("An unknown CREATE parameter")
	}
	if err := s.lex.SP(); err != nil {
		return err
	}
	uses, err := s.lex.Flags()
	if err != nil {
		return err
	}
	if len(uses) > 1 {
		*use = "more than one"
	} else if len(uses) == 1 {
		*use = uses[0]
	}
	return nil
}

// specialUses are the uses that a mailbox can have (RFC 6154 §2).
func specialUses() []string {
	return []string{`\Archive`, `\Drafts`, `\Flagged`, `\Junk`, `\Sent`, `\Trash`}
}

func canonicalUse(use string) string {
	for _, u := range specialUses() {
		if strings.EqualFold(u, use) {
			return u
		}
	}
	return ""
}

func specialUse(use string) bool { return canonicalUse(use) != "" }

func (s *session) delete(ctx context.Context) (reply, error) {
	name, err := s.onlyMailbox()
	if err != nil {
		return reply{}, err
	}
	mailbox, err := s.user.Mailbox(ctx, name)
	if err != nil {
		return reply{}, err
	}
	if err := s.user.Delete(ctx, name); err != nil {
		return reply{}, err
	}
	if s.box != nil && s.box.id == mailbox.ID {
		s.closeBox()
		s.untagged("OK [CLOSED] The mailbox is closed")
	}
	return ok("Deleted")
}

func (s *session) rename(ctx context.Context) (reply, error) {
	from, err := s.mailboxArgument()
	if err != nil {
		return reply{}, err
	}
	to, err := s.onlyMailbox()
	if err != nil {
		return reply{}, err
	}
	if err := s.user.Rename(ctx, from, strings.TrimSuffix(to, backend.Separator)); err != nil {
		return reply{}, err
	}
	return ok("Renamed")
}

func (s *session) subscribe(ctx context.Context) (reply, error)   { return s.setSubscribed(ctx, true) }
func (s *session) unsubscribe(ctx context.Context) (reply, error) { return s.setSubscribed(ctx, false) }

func (s *session) setSubscribed(ctx context.Context, on bool) (reply, error) {
	name, err := s.onlyMailbox()
	if err != nil {
		return reply{}, err
	}
	if err := s.user.Subscribe(ctx, name, on); err != nil {
		return reply{}, err
	}
	return ok("Done")
}

func (s *session) namespace(context.Context) (reply, error) {
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	s.untagged(`NAMESPACE (("" "/")) NIL NIL`)
	return ok("Done")
}

// status serves STATUS.
func (s *session) status(ctx context.Context) (reply, error) {
	name, err := s.mailboxArgument()
	if err != nil {
		return reply{}, err
	}
	if err := s.lex.SP(); err != nil {
		return reply{}, err
	}
	items, err := s.statusItems()
	if err != nil {
		return reply{}, err
	}
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	mailbox, err := s.user.Mailbox(ctx, name)
	if err != nil {
		return reply{}, err
	}
	if err := s.sendStatus(ctx, mailbox, items); err != nil {
		return reply{}, err
	}
	return ok("Done")
}

// statusItems reads a list of STATUS items, in upper case.
func (s *session) statusItems() ([]string, error) {
	var items []string
	err := s.lex.List(false, func() error {
		item, err := s.lex.Word()
		if err != nil {
			return err
		}
		switch item {
		case "MESSAGES", "UIDNEXT", "UIDVALIDITY", "UNSEEN", "DELETED", "SIZE", "RECENT", "APPENDLIMIT", "MAILBOXID", "DELETED-STORAGE":
		case "HIGHESTMODSEQ":
			s.condstore = true
		default:
			return syntax.Errorf("An unknown STATUS item")
		}
		if len(items) < 50 {
			items = append(items, item)
		}
		return nil
	})
	return items, err
}

func (s *session) sendStatus(ctx context.Context, m backend.Mailbox, items []string) error {
	var deletedStorage int64
	if slices.Contains(items, "DELETED-STORAGE") {
		var err error
		if deletedStorage, err = s.deletedStorage(ctx, m); err != nil {
			return err
		}
	}
	s.out.Raw("* STATUS ").Mailbox(m.Name).Raw(" (")
	for i, item := range items {
		if i > 0 {
			s.out.Raw(" ")
		}
		s.out.Raw(item).Raw(" ")
		switch item {
		case "MESSAGES":
			s.out.Num(uint64(m.Messages))
		case "UIDNEXT":
			s.out.Num(uint64(m.UIDNext))
		case "UIDVALIDITY":
			s.out.Num(uint64(m.UIDValidity))
		case "UNSEEN":
			s.out.Num(uint64(m.Unseen))
		case "DELETED":
			s.out.Num(uint64(m.Deleted))
		case "DELETED-STORAGE":
			s.out.Num(uint64(deletedStorage))
		case "SIZE":
			s.out.Num(uint64(m.Size))
		case "RECENT":
			s.out.Num(0)
		case "APPENDLIMIT":
			s.out.Num(uint64(s.srv.o.MaxAppend))
		case "HIGHESTMODSEQ":
			s.out.Num(uint64(max(m.HighestModSeq, 1)))
		case "MAILBOXID":
			s.out.Raw("(").Raw(m.ID.String()).Raw(")")
		}
	}
	s.out.Raw(")").End()
	return nil
}

// orTryCreate turns the answer "no such mailbox" into the hint that a client
// may create it, for the commands that put messages there (RFC 9051 §6.3.12).
func (s *session) orTryCreate(ctx context.Context, name string, err error) (reply, error) {
	if !errors.Is(err, backend.ErrNoMailbox) {
		return reply{}, err
	}
	if _, err := s.user.Mailbox(ctx, name); err == nil {
		return reply{}, backend.ErrNoMailbox // it was the source
	}
	return no("TRYCREATE", "No such mailbox: create it first")
}
