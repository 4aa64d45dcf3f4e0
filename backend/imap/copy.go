package imap

import (
	"context"
	"slices"

	"switchyard/backend"
	"switchyard/backend/imap/syntax"
)

func (s *session) copy(ctx context.Context) (reply, error)    { return s.runCopy(ctx, false) }
func (s *session) uidCopy(ctx context.Context) (reply, error) { return s.runCopy(ctx, true) }
func (s *session) move(ctx context.Context) (reply, error)    { return s.runMove(ctx, false) }
func (s *session) uidMove(ctx context.Context) (reply, error) { return s.runMove(ctx, true) }

// copyArguments reads a set and a mailbox. By message number, all messages
// must still be there (RFC 2180 §4.4).
func (s *session) copyArguments(ctx context.Context, byUID bool) (uids []backend.UID, to string, err error) {
	positions, err := s.setArgument(byUID)
	if err != nil {
		return nil, "", err
	}
	if to, err = s.onlyMailbox(); err != nil {
		return nil, "", err
	}
	uids = s.box.uids(positions)
	if byUID {
		return uids, to, nil
	}
	view, err := s.user.View(ctx, s.box.id)
	if err != nil {
		return nil, "", err
	}
	for _, uid := range uids {
		if _, found := view.Messages.Find(uid); !found {
			s.box.dirty = true
			return nil, "", backend.ErrNoMessage
		}
	}
	return uids, to, nil
}

// runCopy serves COPY and UID COPY.
func (s *session) runCopy(ctx context.Context, byUID bool) (reply, error) {
	uids, to, err := s.copyArguments(ctx, byUID)
	if err != nil {
		return reply{}, err
	}
	if _, err := s.user.Mailbox(ctx, to); err != nil || len(uids) == 0 {
		return s.nothingToCopy(ctx, to, err)
	}
	done, err := s.user.Copy(ctx, s.box.id, uids, to)
	if err != nil {
		return s.orTryCreate(ctx, to, err)
	}
	s.box.dirty = s.box.dirty || done.Mailbox == s.box.id
	if len(done.Source) == 0 {
		return ok("There was nothing to copy")
	}
	return okCode(copyCode(done), "Copied"), nil
}

func (s *session) nothingToCopy(ctx context.Context, to string, err error) (reply, error) {
	if err != nil {
		return s.orTryCreate(ctx, to, err)
	}
	return ok("There was nothing to copy")
}

// runMove serves MOVE and UID MOVE (RFC 6851): COPYUID comes untagged, before
// the EXPUNGEs that sync sends.
func (s *session) runMove(ctx context.Context, byUID bool) (reply, error) {
	uids, to, err := s.copyArguments(ctx, byUID)
	if err != nil {
		return reply{}, err
	}
	if s.box.readOnly {
		return no("READ-ONLY", "The mailbox is open for reading only")
	}
	if _, err := s.user.Mailbox(ctx, to); err != nil || len(uids) == 0 {
		return s.nothingToCopy(ctx, to, err)
	}
	done, err := s.user.Move(ctx, s.box.id, uids, to)
	if err != nil {
		return s.orTryCreate(ctx, to, err)
	}
	s.box.dirty = true
	if len(done.Source) > 0 {
		s.untagged("OK [" + copyCode(done) + "] Moved")
	}
	return reply{status: "OK", text: "Done", expunged: len(done.Source) > 0}, nil
}

// copyCode makes COPYUID (RFC 4315 §3): both sets in the same order.
func copyCode(done backend.Copied) string {
	code := []byte("COPYUID " + itoa(int64(done.UIDValidity)) + " ")
	code = syntax.AppendSet(code, slices.Values(done.Source))
	code = append(code, ' ')
	return string(syntax.AppendSet(code, slices.Values(done.Dest)))
}

func (s *session) expunge(ctx context.Context) (reply, error) {
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	return s.runExpunge(ctx, nil)
}

// uidExpunge serves UID EXPUNGE (RFC 4315).
func (s *session) uidExpunge(ctx context.Context) (reply, error) {
	positions, err := s.setArgument(true)
	if err != nil {
		return reply{}, err
	}
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	return s.runExpunge(ctx, s.box.uids(positions))
}

// runExpunge expunges those of uids that are marked \Deleted; nil means all.
func (s *session) runExpunge(ctx context.Context, uids []backend.UID) (reply, error) {
	if s.box.readOnly {
		return no("READ-ONLY", "The mailbox is open for reading only")
	}
	if uids != nil && len(uids) == 0 {
		return ok("Done")
	}
	gone, err := s.user.Expunge(ctx, s.box.id, uids, true)
	if err != nil {
		return reply{}, err
	}
	s.box.dirty = true
	return reply{status: "OK", text: "Done", expunged: len(gone) > 0}, nil
}
