package smtp

import (
	"context"
	"errors"
	"fmt"

	"switchyard/backend"
	"switchyard/backend/access"
	"switchyard/backend/queue"
	"switchyard/internal/smtpd"
	"switchyard/lookup"
	"switchyard/lookup/resolve"
)

var (
	replyBusy   = smtpd.NewReply(451, "4.3.0", "not now, try again later")
	replyAbsent = smtpd.NewReply(550, "5.1.1", "no such mailbox here")
	replyMoved  = smtpd.NewReply(451, "4.1.6", "account lives elsewhere")
	replyClosed = smtpd.NewReply(550, "5.2.1", "mailbox is closed")
	replyRelay  = smtpd.NewReply(451, "4.3.5", queue.ErrNoRelay.Error())
)

// recipientReply words why a recipient is not taken. No, elsewhere and not now
// are kept apart. ok is false when the error is none that is expected.
func recipientReply(err error) (r smtpd.Reply, ok bool) {
	var status *access.StatusError
	var chain *resolve.ChainError
	switch {
	case errors.As(err, &status), errors.Is(err, queue.ErrClosed):
		return replyClosed, true
	case errors.As(err, &chain): // RFC 3463 §3.5
		return smtpd.NewReply(550, "5.4.6", chain.Error()), true
	case errors.Is(err, queue.ErrNoRelay):
		return replyRelay, true
	case errors.Is(err, backend.ErrMoved):
		return replyMoved, true
	case errors.Is(err, lookup.ErrUnavailable), errors.Is(err, backend.ErrBusy), errors.Is(err, context.Canceled):
		return replyBusy, true
	case lookup.AnswerOf(err) == lookup.AnswerAbsent:
		return replyAbsent, true
	}
	return replyBusy, false
}

// deliveryReply words what became of a delivery: 250 or a temporary failure. For
// good only the recipient's own rules refuse. ok is false when the error is none that is expected.
func deliveryReply(d backend.Delivered, err error) (r smtpd.Reply, ok bool) {
	var rejected *queue.RejectedError
	switch {
	case errors.As(err, &rejected): // the one refusal for good: the recipient's own
		return smtpd.NewReply(550, "5.7.1", queue.OneLine(rejected.Reason)), true
	case err == nil && d.Duplicate:
		return smtpd.NewReply(250, "2.1.5", "delivered before"), true
	case err == nil:
		return smtpd.NewReply(250, "2.1.5", "delivered"), true
	case errors.Is(err, backend.ErrOverQuota):
		return smtpd.NewReply(452, "4.2.2", "mailbox full"), true
	case errors.Is(err, backend.ErrTooBig):
		return smtpd.NewReply(452, "4.3.4", "message too big for the mailbox"), true
	case errors.Is(err, backend.ErrMoved), errors.Is(err, backend.ErrNoUser):
		return replyMoved, true
	case errors.Is(err, backend.ErrBusy), errors.Is(err, backend.ErrOutcomeUnknown), errors.Is(err, context.Canceled):
		return replyBusy, true
	}
	return replyBusy, false
}

// loginReply words a failed login (RFC 4954 §6, RFC 5248). ok is false when the
// error is none that is expected.
func loginReply(err error) (r smtpd.Reply, ok bool) {
	var status *access.StatusError
	switch {
	case errors.As(err, &status):
		return smtpd.NewReply(525, "5.7.13", fmt.Sprintf("account is %s", status.Status)), true
	case errors.Is(err, backend.ErrMoved):
		return smtpd.NewReply(454, "4.1.6", "account lives elsewhere"), true
	case lookup.AnswerOf(err) == lookup.AnswerRejected:
		return smtpd.NewReply(535, "5.7.8", "wrong name or password"), true
	}
	expected := errors.Is(err, lookup.ErrUnavailable) || errors.Is(err, backend.ErrBusy) || errors.Is(err, context.Canceled)
	return smtpd.NewReply(454, "4.7.0", "login is not possible now, try again later"), expected
}
