package smtp

import (
	"errors"

	"switchyard/internal/smtpd"
	"switchyard/lookup"
	"switchyard/lookup/resolve"
	"switchyard/router"

	"go.uber.org/zap"
)

var (
	replyRelay    = smtpd.NewReply(550, "5.7.1", "relaying denied")
	replyAbsent   = smtpd.NewReply(550, "5.1.1", "no such user")
	replyClosed   = smtpd.NewReply(550, "5.2.1", "mailbox is closed")
	replyLookup   = smtpd.NewReply(451, "4.4.3", "recipients cannot be looked up now, try again later")
	replyBackend  = smtpd.NewReply(451, "4.4.1", "the mailbox cannot be reached now, try again later")
	replyMoving   = smtpd.NewReply(451, "4.3.0", "the mailbox is on the move, try again later")
	replyOperator = smtpd.NewReply(451, "4.3.5", "the server is misconfigured, try again later")
	replyForeign  = smtpd.NewReply(452, "4.5.3", "recipient must come in a transaction of its own")
	replyUTF8     = smtpd.NewReply(550, "5.6.7", "the mailbox does not take SMTPUTF8")

	replyRejected = smtpd.NewReply(535, "5.7.8", "wrong name or password")
	replyNotNow   = smtpd.NewReply(454, "4.7.0", "login is not possible now, try again later")
)

// recipientReply words why a recipient is not taken. It is the only place that
// does: no is kept apart from not now.
func recipientReply(err error) error {
	var said smtpd.Reply
	var chain *resolve.ChainError
	switch {
	case err == nil, errors.As(err, &said):
		return err
	case errors.Is(err, resolve.ErrUnknownDomain):
		return replyRelay
	case errors.As(err, &chain): // RFC 3463 §3.5
		return smtpd.NewReply(550, "5.4.6", clip(chain.Error()))
	case errors.Is(err, router.ErrOperator):
		return replyOperator
	case errors.Is(err, router.ErrMoved):
		return replyMoving
	case errors.Is(err, lookup.ErrUnavailable):
		return replyLookup
	case errors.Is(err, router.ErrBackend):
		return replyBackend
	}
	switch router.KindOf(err) {
	case router.Absent:
		return replyAbsent
	case router.Refused:
		return replyClosed
	}
	return err // smtpd logs it, or says goodbye
}

// loginReply words a failed login (RFC 4954 §6, RFC 5248).
func loginReply(s *router.Session, err error) smtpd.Reply {
	switch router.KindOf(err) {
	case router.Absent, router.Rejected:
		return replyRejected
	case router.Refused:
		var words *router.RefusedError
		var status *router.StatusError
		switch {
		case errors.As(err, &words):
			return smtpd.NewReply(525, "5.7.13", words.Text)
		case errors.As(err, &status):
			return smtpd.NewReply(525, "5.7.13", "account is "+status.Word())
		}
	case router.Unavailable:
		return replyNotNow
	}
	s.Log.Error("login failed by a mistake of ours", zap.Error(err))
	return smtpd.NewReply(454, "4.3.0", "internal error, try again later")
}
