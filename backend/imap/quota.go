package imap

import (
	"context"
	"slices"

	"switchyard/backend"
)

// An account has one quota root, the empty one, which all its mailboxes have
// (RFC 9208 §4.1). The directory sets the limits, so that SETQUOTA is not offered.
const quotaCapabilities = "QUOTA QUOTA=RES-STORAGE QUOTA=RES-MESSAGE"

// getQuota serves GETQUOTA (RFC 9208 §4.1.2).
func (s *session) getQuota(ctx context.Context) (reply, error) {
	if err := s.lex.SP(); err != nil {
		return reply{}, err
	}
	root, err := s.lex.AString()
	if err != nil {
		return reply{}, err
	}
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	if root != "" {
		return no("NONEXISTENT", "No such quota root")
	}
	return s.sendQuota(ctx)
}

// getQuotaRoot serves GETQUOTAROOT (RFC 9208 §4.1.3). The mailbox need not
// exist.
func (s *session) getQuotaRoot(ctx context.Context) (reply, error) {
	name, err := s.onlyMailbox()
	if err != nil {
		return reply{}, err
	}
	s.out.Raw("* QUOTAROOT ").Mailbox(name).Raw(` ""`).End()
	return s.sendQuota(ctx)
}

// setQuota refuses SETQUOTA: limits are the directory's (RFC 9208 §4.1.1).
func (s *session) setQuota(context.Context) (reply, error) {
	return no("NOPERM", "Limits are set in the directory")
}

// sendQuota sends what is used and allowed. What is without limit is left out.
func (s *session) sendQuota(ctx context.Context) (reply, error) {
	used, limit, err := s.user.Quota(ctx)
	if err != nil {
		return reply{}, err
	}
	s.out.Raw(`* QUOTA "" (`)
	if limit.Bytes > 0 {
		// In units of 1,024 bytes (RFC 9208 §5.1): a part of one is used up,
		// and no limit is promised that the store does not keep.
		s.out.Raw("STORAGE ").Num(uint64(used.Bytes+1023) / 1024).Raw(" ").Num(uint64(limit.Bytes / 1024))
	}
	if limit.Messages > 0 {
		if limit.Bytes > 0 {
			s.out.Raw(" ")
		}
		s.out.Raw("MESSAGE ").Num(uint64(used.Messages)).Raw(" ").Num(uint64(limit.Messages))
	}
	s.out.Raw(")").End()
	return ok("Done")
}

// deletedStorage sums the messages with \Deleted, for STATUS (RFC 9208 §4.1.4).
func (s *session) deletedStorage(ctx context.Context, m backend.Mailbox) (int64, error) {
	if m.Deleted == 0 {
		return 0, nil
	}
	v, err := s.user.View(ctx, m.ID)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, msg := range v.Messages.All() {
		if slices.Contains(msg.Flags, backend.FlagDeleted) {
			sum += msg.Size
		}
	}
	return sum, nil
}
