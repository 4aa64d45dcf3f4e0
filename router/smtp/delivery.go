package smtp

import (
	"context"
	"slices"
	"sync"

	"switchyard/internal/smtpd"
	"switchyard/internal/spool"
)

// delivery brings a whole message to the backends and makes answers of theirs:
// one for each group of offers.
//
// The backends with delivery ids go first, all at once: what they have taken they
// recognise when the sender comes back. A foreign backend would store it twice, so
// it gets the message when everybody else in its groups has a final answer and what
// was refused is reported; its own answer is then the last word.
//
// Of the answers in a group only yes from all is yes. Yes beside no is yes as soon
// as a backend's queue has the report of who was refused; for good a group is
// refused only when nobody has the message. Everything else, an answer that never
// came above all, is "come back": a sender that comes back loses nothing.
type delivery struct {
	f       *inbound
	t       *transaction
	message *spool.Spool
	id      bool // the message has a Message-ID
	groups  [][]*offer
}

var replyLater = smtpd.NewReply(451, "4.3.0", "not delivered to all recipients yet, try again later")

// run returns an answer for each group.
func (d *delivery) run(ctx context.Context, accepted smtpd.Reply) []smtpd.Reply {
	var wg sync.WaitGroup
	for _, l := range d.t.legs {
		if !l.foreign() {
			wg.Go(func() { l.deliver(d.t.trace, d.message.Reader()) })
		}
	}
	wg.Wait()
	for _, l := range d.t.legs {
		if l.foreign() {
			d.foreign(ctx, l)
		}
	}
	replies := make([]smtpd.Reply, len(d.groups))
	for i, group := range d.groups {
		replies[i] = d.conclude(ctx, group, accepted)
	}
	return replies
}

// foreign sends the message to a foreign backend, if it may have it.
func (d *delivery) foreign(ctx context.Context, l *leg) {
	for _, o := range l.taken {
		o.withheld = true
	}
	for _, group := range d.groups {
		if slices.ContainsFunc(group, func(o *offer) bool { return o.leg == l }) && !d.ready(ctx, group) {
			return
		}
	}
	for _, o := range l.taken {
		o.withheld = false
	}
	l.deliver(d.t.trace, d.message.Reader())
}

// ready reports whether nothing in a group but what is withheld can still go wrong.
func (d *delivery) ready(ctx context.Context, group []*offer) bool {
	n := count(group)
	return n.open == 0 && (n.no == 0 || d.report(ctx, group))
}

// conclude makes one answer of a group's.
func (d *delivery) conclude(ctx context.Context, group []*offer, accepted smtpd.Reply) smtpd.Reply {
	switch n := count(group); {
	case n.open > 0:
		return replyLater
	case n.no == 0 && n.withheld == 0:
		return accepted
	case n.no > 0 && n.yes == 0 && n.reported == 0:
		return n.first
	case n.withheld == 0 && d.report(ctx, group):
		return accepted
	}
	return replyLater
}

// tally counts a group's answers.
type tally struct {
	yes, no, reported, withheld int
	open                        int         // neither yes nor no
	first                       smtpd.Reply // no
}

func count(group []*offer) (n tally) {
	for _, o := range group {
		switch {
		case o.withheld:
			n.withheld++
		case o.answer.Positive():
			n.yes++
		case o.reported:
			n.reported++
		case !o.answer.Permanent():
			n.open++
		default:
			if n.no++; n.no == 1 {
				n.first = o.answer
			}
		}
	}
	return n
}
