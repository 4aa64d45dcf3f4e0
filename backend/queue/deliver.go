package queue

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"

	"switchyard/backend"
	"switchyard/internal/message"
	"switchyard/lookup"

	"go.uber.org/zap"
)

// Mailbox is a recipient that lives here.
type Mailbox struct {
	User    backend.User
	Account lookup.Account
	To      // Address is as the mail says it: the account's name, perhaps with a detail
}

// Filter delivers by the recipient's own rules.
type Filter interface {
	// Deliver does what the account's rules say. When it returns nil,
	// everything is durable; after an error it may be called again with the
	// same delivery id. A *RejectedError is the recipient's own refusal.
	Deliver(ctx context.Context, u backend.User, d backend.Delivery, from, to string) (backend.Delivered, error)
}

// RejectedError says that the recipient's rules refuse a message.
type RejectedError struct{ Reason string }

func (e *RejectedError) Error() string { return "refused by the recipient: " + e.Reason }

// Deliver gives a message to a recipient that lives here: to the mailbox, by the
// recipient's rules, and to the addresses that the account forwards to, which go
// into the queue. Head is complete header lines to be put in front, or "". When
// it returns nil, everything is durable; after an error it may be called again,
// and does nothing twice. Errors: *RejectedError, and those of User.Deliver and
// Accept.
//
// Each account's forwards are followed where the account lives, one step: those
// of the next one at its own home. The sender of the envelope stays who it is.
// A message that comes to an account a second time by way of its own forward is
// kept there and goes no further.
//
// A sender who asked to hear of success (NOTIFY) gets a report once the message is
// in the mailbox (RFC 3461 §5.2.3), where mail to the sender can leave at all. If it
// only goes on, the wish goes on with it.
func (q *Queue) Deliver(ctx context.Context, m Mailbox, env Envelope, head string, body io.ReaderAt, size int64) (backend.Delivered, error) {
	d, err := NewDelivery(env.From, m.Address, head, body, size, env.Trace)
	if err != nil {
		return backend.Delivered{}, err
	}
	onward, only := forwards(m.Account)
	been := false
	if len(onward) > 0 {
		if been, err = beenHere(body, size, m.Account.Name); err != nil {
			return backend.Delivered{}, err
		}
	}
	switch {
	case been:
		q.o.Logger.Info("message came back by its own forward, it is kept", zap.String("user", m.Account.Name), zap.String("from", env.From))
	case len(onward) > 0:
		if err := q.forward(ctx, m, onward, !only, d.ID, env, head, body, size); err != nil || only {
			return backend.Delivered{}, err
		}
	}
	if q.reportsSuccess(m.To, env) {
		return q.keepAndReport(ctx, m, d, env, body, size)
	}
	return q.keep(ctx, m, d, env)
}

// keep puts a message into the mailbox.
func (q *Queue) keep(ctx context.Context, m Mailbox, d backend.Delivery, env Envelope) (backend.Delivered, error) {
	if q.o.Filter != nil {
		return q.o.Filter.Deliver(ctx, m.User, d, env.From, m.Address)
	}
	return m.User.Deliver(ctx, d)
}

// The attribute that says that nothing is kept of what is forwarded, and the
// field that says which accounts forwarded a message.
const (
	forwardOnlyAttribute = "fwdonly"
	deliveredTo          = "Delivered-To"
)

// forwards returns where an account's mail goes besides, and whether only there.
func forwards(a lookup.Account) (onward []string, only bool) {
	switch strings.ToLower(a.Attributes[forwardOnlyAttribute]) {
	case "1", "true", "yes", "on":
		only = true
	}
	for _, f := range a.Forwards {
		clean, err := lookup.CleanName(f, lookup.Domain(a.Name))
		switch {
		case err == nil && clean == a.Name:
			only = false // a copy for itself
		case err == nil && strings.Contains(clean, "@"):
			if !strings.Contains(f, "@") {
				f = clean
			}
			onward = append(onward, f)
		}
	}
	return onward, only && len(onward) > 0
}

// forward puts the message into the queue for an account's forwards. What the
// sender wants to hear of it goes along, but for the success of one who has the
// message already.
func (q *Queue) forward(ctx context.Context, m Mailbox, onward []string, kept bool, delivery [32]byte, env Envelope, head string, body io.ReaderAt, size int64) error {
	front := []byte(head + deliveredTo + ": " + m.Account.Name + "\r\n")
	on := env
	on.To, on.Trace = nil, int64(len(front))+env.Trace
	for i, address := range onward {
		to := m.To.onward(address, m.Account.Name)
		if kept || i > 0 {
			to = to.withoutSuccess()
		}
		on.To = append(on.To, to)
	}
	_, err := q.AcceptOnce(ctx, derived(delivery, "forward of "+m.Account.Name), on, &prefixed{front, body}, int64(len(front))+size)
	return err
}

// onward is the recipient that another has become. Who it was for at first is
// still known in a report. (An address in UTF-8 would need an encoding of its own in
// ORCPT, RFC 6533 §3, and a server that knows it.)
func (t To) onward(address, from string) To {
	t.Address = address
	if t.Original == "" && addressType(from) == "rfc822" {
		t.Original = "rfc822;" + from
	}
	return t
}

// derived is the id of something that is done for a delivery; zero stays zero.
func derived(delivery [32]byte, what string) [32]byte {
	if delivery == [32]byte{} {
		return delivery
	}
	return sha256.Sum256(fmt.Appendf(nil, "%s\x00%s", delivery[:], what))
}

// beenHere reports whether a message has gone through an account's forward.
func beenHere(body io.ReaderAt, size int64, account string) (bool, error) {
	been := false
	header := &message.Part{BodyStart: min(size, maxHeader)}
	err := message.ReadHeader(body, header, func(f message.Field) bool {
		been = strings.EqualFold(f.Name, deliveredTo) && strings.EqualFold(f.Value(), account)
		return !been && f.Name != ""
	})
	return been, err
}

// maxHeader bounds how far a header is read for loops.
const maxHeader = 256 << 10

// Relay puts a message into the queue for a recipient who is not for this node to
// serve: an address elsewhere behind an alias, one in a relayed domain, the sender
// that a proxy has to report to. It does so once for each delivery.
func (q *Queue) Relay(ctx context.Context, to To, env Envelope, head string, body io.ReaderAt, size int64) error {
	id, err := deliveryID(env.From, to.Address, body, size, env.Trace)
	if err != nil {
		return err
	}
	on := env
	on.Trace += int64(len(head))
	on.To = []To{to}
	_, err = q.AcceptOnce(ctx, derived(id, "relay"), on, &prefixed{[]byte(head), body}, int64(len(head))+size)
	return err
}
