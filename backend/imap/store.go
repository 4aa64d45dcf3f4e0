package imap

import (
	"context"
	"slices"
	"strings"

	"switchyard/backend"
	"switchyard/backend/imap/syntax"
)

func (s *session) store(ctx context.Context) (reply, error)    { return s.runStore(ctx, false) }
func (s *session) uidStore(ctx context.Context) (reply, error) { return s.runStore(ctx, true) }

// storing is a STORE command.
type storing struct {
	change      backend.FlagChange
	conditional bool
	silent      bool
}

// runStore serves STORE and UID STORE.
func (s *session) runStore(ctx context.Context, byUID bool) (reply, error) {
	positions, err := s.setArgument(byUID)
	if err != nil {
		return reply{}, err
	}
	cmd, err := s.storeArguments()
	if err != nil {
		return reply{}, err
	}
	box := s.box
	if box.readOnly {
		return no("READ-ONLY", "The mailbox is open for reading only")
	}
	uids := box.uids(positions)
	if cmd.conditional && cmd.change.UnchangedSince == 0 {
		// Every message is newer than that (RFC 7162 §3.1.3, example 7).
		return okCode(s.modified(uids, byUID), "Nothing was changed"), nil
	}
	if len(uids) == 0 {
		return ok("Done")
	}
	old := box.known
	now, held, err := s.user.SetFlags(ctx, box.id, uids, cmd.change)
	if err != nil {
		return reply{}, err
	}
	s.learn(now)
	slices.Sort(held)
	for i := range now {
		m := &now[i]
		visible := !cmd.silent || surprising(old, m, cmd.change)
		if _, kept := slices.BinarySearch(held, m.UID); kept {
			// Not changed by us: the client is told what it did not know.
			i, _ := old.Find(m.UID)
			visible = old.At(i).ModSeq != m.ModSeq
			if !visible {
				continue
			}
		}
		if visible || s.condstore {
			s.sendChange(m, visible)
		}
	}
	if len(held) > 0 {
		return okCode(s.modified(held, byUID), "Some messages had changed"), nil
	}
	if len(now) < len(uids) && !byUID {
		return reply{}, backend.ErrNoMessage
	}
	return ok("Done")
}

// modified makes the MODIFIED code (RFC 7162 §3.1.3).
func (s *session) modified(held []backend.UID, byUID bool) string {
	return string(syntax.AppendSet([]byte("MODIFIED "), func(yield func(uint32) bool) {
		for _, uid := range held {
			n := uint32(uid)
			if !byUID {
				i, _ := s.box.known.Find(uid)
				n = uint32(i + 1)
			}
			if !yield(n) {
				return
			}
		}
	}))
}

// surprising reports whether a message's flags are not what a client expects
// that knows the old ones and its own change: somebody else has changed them
// too (RFC 9051 §6.4.6).
func surprising(old backend.Messages, m *backend.Message, change backend.FlagChange) bool {
	i, found := old.Find(m.UID)
	if !found {
		return true
	}
	want := apply(old.At(i).Flags, change)
	return !slices.Equal(want, m.Flags)
}

// apply computes flags as the store does: sorted, each once.
func apply(flags []string, change backend.FlagChange) []string {
	var out []string
	if change.Op != backend.FlagsReplace {
		out = slices.Clone(flags)
	}
	for _, f := range change.Flags {
		if change.Op == backend.FlagsRemove {
			out = slices.DeleteFunc(out, func(o string) bool { return strings.EqualFold(o, f) })
		} else if !slices.ContainsFunc(out, func(o string) bool { return strings.EqualFold(o, f) }) {
			out = append(out, f)
		}
	}
	slices.Sort(out)
	return out
}

// storeArguments reads what follows the set.
func (s *session) storeArguments() (storing, error) {
	var cmd storing
	if err := s.lex.SP(); err != nil {
		return cmd, err
	}
	if s.lex.Peek() == '(' {
		if err := s.lex.List(false, func() error { return s.storeModifier(&cmd) }); err != nil {
			return cmd, err
		}
		if err := s.lex.SP(); err != nil {
			return cmd, err
		}
	}
	word, err := s.lex.Word()
	if err != nil {
		return cmd, err
	}
	word, cmd.silent = strings.CutSuffix(word, ".SILENT")
	switch word {
	case "FLAGS":
		cmd.change.Op = backend.FlagsReplace
	case "+FLAGS":
		cmd.change.Op = backend.FlagsAdd
	case "-FLAGS":
		cmd.change.Op = backend.FlagsRemove
	default:
		return cmd, syntax.Errorf("An unknown STORE item")
	}
	if err := s.lex.SP(); err != nil {
		return cmd, err
	}
	flags, err := s.storeFlags()
	if err != nil {
		return cmd, err
	}
	if err := s.lex.End(); err != nil {
		return cmd, err
	}
	cmd.change.Flags, err = cleanFlags(flags)
	return cmd, err
}

// storeFlags reads flags with or without parentheses.
func (s *session) storeFlags() ([]string, error) {
	if s.lex.Peek() == '(' {
		return s.lex.Flags()
	}
	var flags []string
	for {
		f, err := s.lex.Flag()
		if err != nil {
			return nil, err
		}
		flags = append(flags, f)
		if !s.lex.Is(' ') {
			return flags, nil
		}
	}
}

func (s *session) storeModifier(cmd *storing) error {
	word, err := s.lex.Word()
	if err != nil {
		return err
	}
	if word != "UNCHANGEDSINCE" {
		return syntax.Errorf("An unknown STORE modifier")
	}
	if err := s.lex.SP(); err != nil {
		return err
	}
	n, err := s.lex.Number64()
	if err != nil {
		return err
	}
	cmd.conditional, cmd.change.UnchangedSince = true, backend.ModSeq(n)
	s.condstore = true
	return nil
}
