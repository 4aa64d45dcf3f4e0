package imap

import (
	"context"
	"errors"
	"io"

	"switchyard/backend"
	"switchyard/backend/access"
	"switchyard/backend/imap/syntax"
	"switchyard/internal/spool"
	"switchyard/lookup"

	"go.uber.org/zap"
)

// reply is a tagged answer.
type reply struct {
	status, code, text string

	// keepNumbers says that no message may be announced as expunged before
	// it, beside what the command's own table entry says.
	keepNumbers bool

	// expunged asks for the code HIGHESTMODSEQ, for clients of QRESYNC
	// (RFC 7162 §3.2.7), once the expunges have been announced.
	expunged bool
}

func ok(text string) (reply, error)       { return okCode("", text), nil }
func okCode(code, text string) reply      { return reply{status: "OK", code: code, text: text} }
func no(code, text string) (reply, error) { return reply{status: "NO", code: code, text: text}, nil }
func bad(code, text string) reply         { return reply{status: "BAD", code: code, text: text} }

// uidRequired answers a command that has message numbers once the client has
// given them up (RFC 9586 §3).
func uidRequired() reply {
	return bad("UIDREQUIRED", "Message numbers are not in use: UIDONLY is enabled")
}

func newWriter(w io.Writer) *syntax.Writer { return syntax.NewWriter(w) }

func (s *session) tagged(tag string, r reply) {
	s.out.Raw(tag).Raw(" ").Raw(r.status).Raw(" ")
	if r.code != "" {
		s.out.Raw("[").Raw(r.code).Raw("] ")
	}
	s.out.Raw(r.text).End()
}

// untagged writes "* …".
func (s *session) untagged(text string) { s.out.Raw("* ").Raw(text).End() }

// answer chooses the reply to an error. What is not the client's mistake keeps
// the three answers apart: no, not now, and broken (a bug or a broken disk of
// ours, which is logged). Errors that end the session are returned.
func (s *session) answer(err error) (reply, error) {
	var end *ending
	var mistake *syntax.Error
	var refused *syntax.Refused
	var badURL *badURLError
	switch {
	case errors.As(err, &badURL):
		return badURLReply(badURL), nil
	case errors.As(err, &end):
		return reply{}, end
	case errors.As(err, &mistake):
		return bad("", mistake.Text), nil
	case errors.As(err, &refused):
		return bad("TOOBIG", refused.Text), nil
	}
	for _, known := range refusals() {
		if errors.Is(err, known.err) {
			return reply{status: "NO", code: known.code, text: known.text}, nil
		}
	}
	s.log().Error("command failed", zap.Error(err))
	return reply{status: "NO", code: "SERVERBUG", text: "The server has a problem"}, nil
}

type refusal struct {
	err        error
	code, text string
}

// refusals are the store's errors in IMAP's words (RFC 5530).
func refusals() []refusal {
	return []refusal{
		{backend.ErrNoMailbox, "NONEXISTENT", "No such mailbox"},
		{backend.ErrMailboxExists, "ALREADYEXISTS", "The mailbox exists"},
		{backend.ErrMailboxName, "CANNOT", "The mailbox name is not allowed"},
		{backend.ErrInbox, "CANNOT", "Not possible with INBOX"},
		{backend.ErrHasChildren, "HASCHILDREN", "The mailbox has others below it: delete them first"},
		{backend.ErrNoMessage, "EXPUNGEISSUED", "Some of the messages are gone"},
		{backend.ErrTooBig, "TOOBIG", "The message is too big"},
		{spool.ErrTooBig, "TOOBIG", "The message is too big"},
		{backend.ErrOverQuota, "OVERQUOTA", "Over quota"},
		{backend.ErrFlag, "CANNOT", "A flag is not allowed"},
		{backend.ErrTooMany, "LIMIT", "Too many mailboxes or keywords"},
		{backend.ErrMoved, "UNAVAILABLE", "The account has moved: connect again"},
		{backend.ErrNoUser, "UNAVAILABLE", "The account is not here now: connect again"},
		{backend.ErrOutcomeUnknown, "UNAVAILABLE", "The outcome is unknown: look before you try again"},
		{errUnknownEncoding, "UNKNOWN-CTE", "The part's encoding is unknown"},
		{backend.ErrBusy, "UNAVAILABLE", "Not possible now: try again later"},
		{context.DeadlineExceeded, "UNAVAILABLE", "Not possible now: try again later"},
		{context.Canceled, "UNAVAILABLE", "Not possible now: try again later"},
	}
}

// refuseLogin chooses the reply to a login that failed.
func (s *session) refuseLogin(err error) reply {
	var status *access.StatusError
	switch {
	case errors.Is(err, backend.ErrMoved) && s.trusted():
		return reply{status: "NO", code: "X-MOVED", text: "The account lives elsewhere"}
	case errors.As(err, &status):
		return reply{status: "NO", code: "CONTACTADMIN", text: "The account is not in use"}
	case errors.Is(err, lookup.ErrUnavailable),
		errors.Is(err, backend.ErrMoved), errors.Is(err, backend.ErrBusy), errors.Is(err, backend.ErrNoUser),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		s.log().Warn("login not possible now", zap.Error(err))
		return reply{status: "NO", code: "UNAVAILABLE", text: "Not possible now: try again later"}
	case errors.Is(err, lookup.ErrRejected), errors.Is(err, lookup.ErrAbsent):
		return reply{status: "NO", code: "AUTHENTICATIONFAILED", text: "Wrong name or password"}
	default:
		s.log().Error("login failed", zap.Error(err))
		return reply{status: "NO", code: "SERVERBUG", text: "The server has a problem"}
	}
}
