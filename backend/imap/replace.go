package imap

import (
	"context"
	"errors"
	"slices"

	"switchyard/backend"
	"switchyard/backend/imap/syntax"
	"switchyard/internal/spool"
)

func (s *session) replace(ctx context.Context) (reply, error)    { return s.runReplace(ctx, false) }
func (s *session) uidReplace(ctx context.Context) (reply, error) { return s.runReplace(ctx, true) }

// runReplace serves REPLACE and UID REPLACE (RFC 8508). The new message is
// kept first, and the old one removed then: a crash between them leaves both.
func (s *session) runReplace(ctx context.Context, byUID bool) (reply, error) {
	old, found, err := s.messageArgument(byUID)
	if err != nil {
		return reply{}, err
	}
	name, err := s.mailboxArgument()
	if err != nil {
		return reply{}, err
	}
	switch {
	case s.box.readOnly:
		return no("READ-ONLY", "The mailbox is open for reading only")
	case !found:
		return reply{}, backend.ErrNoMessage
	}
	// Ask before the client sends what cannot be kept.
	if _, err := s.user.Mailbox(ctx, name); err != nil {
		return s.orTryCreate(ctx, name, err)
	}
	if err := s.stillThere(ctx, old); err != nil {
		return reply{}, err
	}
	sp := spool.New(spool.Options{Dir: s.srv.o.SpoolDir, Limit: s.srv.o.MaxAppend})
	defer sp.Close()
	m, err := s.appendMessage(ctx, sp)
	if err != nil {
		return reply{}, err
	}
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	if err := s.stillThere(ctx, old); err != nil { // it may have taken long
		return reply{}, err
	}
	done, err := s.user.Append(ctx, name, []backend.Incoming{m})
	if err != nil {
		return s.orTryCreate(ctx, name, err)
	}
	s.box.dirty = true
	gone, err := s.user.Expunge(ctx, s.box.id, []backend.UID{old}, false)
	if errors.Is(err, backend.ErrOutcomeUnknown) {
		// The new one may be all there is.
		return no(appendCode(done), "The new message is there; whether the old one is gone is unknown")
	}
	if err != nil || len(gone) == 0 {
		return s.takeBack(ctx, done[0], err)
	}
	// RFC 8508 §4.3: the code comes before the EXPUNGE that sync sends.
	s.untagged("OK [" + appendCode(done) + "] The new message is there")
	return reply{status: "OK", text: "Replaced", expunged: true}, nil
}

// messageArgument reads a space and one message's number or UID. A UID that
// is not there is no mistake in the command.
func (s *session) messageArgument(byUID bool) (uid backend.UID, found bool, err error) {
	if err := s.lex.SP(); err != nil {
		return 0, false, err
	}
	n, err := s.lex.Number()
	switch {
	case err != nil:
		return 0, false, err
	case byUID:
		_, found = s.box.known.Find(backend.UID(n))
		return backend.UID(n), found, nil
	case n < 1 || int64(n) > int64(s.box.known.Len()):
		return 0, false, syntax.Errorf("No such message number")
	}
	return s.box.known.At(int(n) - 1).UID, true, nil
}

// stillThere fails when a message has been expunged meanwhile.
func (s *session) stillThere(ctx context.Context, uid backend.UID) error {
	view, err := s.user.View(ctx, s.box.id)
	if err != nil {
		return err
	}
	if _, found := view.Messages.Find(uid); !found {
		s.box.dirty = true
		return backend.ErrNoMessage
	}
	return nil
}

// takeBack removes the new message when the old one could not be: because of
// why, or because somebody else was quicker. Should that fail too, the client
// hears where the new message is.
func (s *session) takeBack(ctx context.Context, added backend.Appended, why error) (reply, error) {
	gone, err := s.user.Expunge(ctx, added.Mailbox, []backend.UID{added.UID}, false)
	if err != nil || !slices.Contains(gone, added.UID) {
		return no(appendCode([]backend.Appended{added}), "The new message is there, but the old one could not be removed")
	}
	if why == nil {
		why = backend.ErrNoMessage
	}
	return reply{}, why
}
