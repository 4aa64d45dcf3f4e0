package queue

import (
	"context"
	"errors"
	"io"
	"strings"

	"switchyard/backend"
	"switchyard/lookup"
	"switchyard/lookup/resolve"
)

// deliverLocal delivers into mailboxes of this node.
func (q *Queue) deliverLocal(ctx context.Context, env Envelope, body backend.Body, recipients []Recipient) []outcome {
	out := make([]outcome, 0, len(recipients))
	for _, r := range recipients {
		o, found := q.expand(ctx, r)
		if !found {
			o = q.deliverHome(ctx, env, body, r.To)
		}
		out = append(out, o)
	}
	return out
}

// expand looks whether an address leads elsewhere: forwards, and scripts, may name
// an alias, or somebody who has a catch-all. found is false when it is a mailbox's
// own, and when it is nobody's: then the mailbox decides.
func (q *Queue) expand(ctx context.Context, r Recipient) (o outcome, found bool) {
	if !q.Resolves() {
		return outcome{}, false
	}
	to, err := q.Expand(ctx, r.Address)
	var chain *resolve.ChainError
	switch {
	case errors.As(err, &chain): // RFC 3463 §3.5
		return outcome{verdict: refused, reply: "550 5.4.6 " + OneLine(chain.Error())}, true
	case errors.Is(err, ErrNoRelay):
		return outcome{verdict: retry, reply: "451 4.3.5 " + ErrNoRelay.Error()}, true
	case errors.Is(err, lookup.ErrUnavailable):
		return q.failure(ctx, err), true
	case err != nil, len(to) == 1 && strings.EqualFold(to[0], r.Address):
		return outcome{}, false
	}
	return outcome{verdict: expanded, reply: "250 2.1.5 goes on to " + OneLine(strings.Join(to, ", ")), to: to}, true
}

func (q *Queue) deliverHome(ctx context.Context, env Envelope, body backend.Body, to To) outcome {
	user, account, err := FindRecipient(ctx, q.accounts, to.Address, 0)
	if err != nil {
		return q.noRecipient(ctx, account, err)
	}
	done, err := q.Deliver(ctx, Mailbox{User: user, Account: account, To: to}, env, "", body, body.Size())
	var rejected *RejectedError
	switch {
	case errors.As(err, &rejected):
		return outcome{verdict: refused, reply: "550 5.7.1 " + OneLine(rejected.Reason)}
	case errors.Is(err, backend.ErrTooBig):
		return outcome{verdict: refused, reply: "552 5.3.4 message too big for the mailbox"}
	case errors.Is(err, backend.ErrOverQuota):
		return outcome{verdict: retry, reply: "452 4.2.2 mailbox full"}
	case err != nil:
		return q.failure(ctx, err)
	case done.Duplicate:
		return outcome{verdict: delivered, reply: "250 2.1.5 delivered before"}
	}
	return outcome{verdict: delivered, reply: "250 2.1.5 delivered"}
}

// noRecipient keeps the answers apart: no, elsewhere, and not now.
func (q *Queue) noRecipient(ctx context.Context, account lookup.Account, err error) outcome {
	switch {
	case ctx.Err() != nil:
		return outcome{verdict: cut}
	case errors.Is(err, backend.ErrMoved):
		if len(q.o.Proxies) == 0 {
			return outcome{verdict: retry, reply: "451 4.1.6 account lives elsewhere, and no proxies are configured"}
		}
		return outcome{verdict: elsewhere, reply: "451 4.1.6 account lives elsewhere"}
	case lookup.AnswerOf(err) == lookup.AnswerAbsent:
		return outcome{verdict: refused, reply: "550 5.1.1 no such mailbox"}
	case account.Name != "" && !account.Status.MayReceive():
		return outcome{verdict: refused, reply: "550 5.2.1 mailbox is closed"}
	default:
		return q.failure(ctx, err)
	}
}

// NewDelivery prepares a message for User.Deliver: with its delivery id, and
// Return-Path and head (complete header lines, or "") in front. The first trace
// bytes of the body do not count for the id. The body must not change until
// the delivery is done.
func NewDelivery(from, to, head string, body io.ReaderAt, size, trace int64) (backend.Delivery, error) {
	id, err := deliveryID(from, to, body, size, trace)
	if err != nil {
		return backend.Delivery{}, err
	}
	front := []byte("Return-Path: <" + from + ">\r\n" + head)
	return backend.Delivery{
		Incoming: backend.Incoming{Body: &prefixed{front, body}, Size: int64(len(front)) + size},
		ID:       id,
	}, nil
}

// deliveryID is backend.DeliveryID, zero for none. The recipient counts in lower
// case: one who was named by an alias at first, and by the sender in a retry, is
// the same.
func deliveryID(from, to string, body io.ReaderAt, size, trace int64) ([32]byte, error) {
	id, _, err := backend.DeliveryID(from, strings.ToLower(to), body, size, trace)
	return id, err
}

// prefixed is a message with lines in front.
type prefixed struct {
	front []byte
	rest  io.ReaderAt
}

func (p *prefixed) ReadAt(b []byte, off int64) (n int, err error) {
	if off < int64(len(p.front)) {
		n = copy(b, p.front[off:])
		if n == len(b) {
			return n, nil
		}
		off += int64(n)
	}
	m, err := p.rest.ReadAt(b[n:], off-int64(len(p.front)))
	return n + m, err
}
