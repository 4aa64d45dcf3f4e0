package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"switchyard/backend"

	"go.uber.org/zap"
)

// outcome is what one attempt got for one recipient.
type outcome struct {
	verdict verdict
	reply   string // "250 2.1.5 text"
	server  string
	silent  bool     // the server will not tell the sender what becomes of it
	to      []string // whom an expanded one has become
}

type verdict int

const (
	retry     verdict = iota // not now
	delivered                // final
	refused                  // final
	elsewhere                // not here: the proxies know where
	expanded                 // final: others take its place
	cut                      // the attempt was cut off by the end of Run: it does not count
)

// attempt tries the recipients of an entry that are due in a lane, records what
// came of it, and reports. again is when the lane has to look at the entry
// next; nil: never. others are lanes in which it has something to do now.
func (q *Queue) attempt(ctx context.Context, lane Lane, e *entry) (again *time.Time, others []Lane) {
	places, recipients := e.due(lane, time.Now())
	var outcomes []outcome
	if len(recipients) > 0 {
		outcomes = q.deliver(ctx, lane, e, recipients)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return nil, nil
	}
	now := time.Now().UTC().Round(0)
	for i, place := range places {
		if outcomes[i].verdict == cut {
			continue
		}
		others = append(others, q.record(e, &e.Recipients[place], outcomes[i], now)...)
	}
	e.planReport()
	if err := q.settle(ctx, e); err != nil {
		if ctx.Err() == nil {
			q.o.Logger.Error("queue entry not saved", zap.String("queue", FormatID(e.id)), zap.Error(err))
		}
		when := now.Add(settleAgain)
		return &when, others
	}
	if e.gone {
		return nil, nil
	}
	for _, r := range e.Recipients {
		if r.State == Waiting && r.Lane == lane && (again == nil || r.Next.Before(*again)) {
			when := r.Next
			again = &when
		}
	}
	return again, others
}

// settleAgain is when to try again to save what an attempt brought.
const settleAgain = 10 * time.Second

// record writes an outcome into its recipient, and into the log. It returns the
// lanes that have got something to do.
func (q *Queue) record(e *entry, r *Recipient, o outcome, now time.Time) (others []Lane) {
	r.Attempts++
	r.Last, r.Reply, r.Server = now, o.reply, o.server
	e.dirty = true
	word := "deferred"
	switch o.verdict {
	case delivered:
		r.State, word = Delivered, "delivered"
		r.Relayed = o.silent && r.wants("SUCCESS") && q.reaches(e.Envelope.From)
	case refused:
		r.State, word = Failed, "refused"
	case elsewhere:
		r.Lane, r.Next, word = LaneProxies, now, "moved"
		others = []Lane{LaneProxies}
	case expanded:
		r.State, word = Delivered, "expanded"
	case retry:
		if end := e.Created.Add(q.o.GiveUp); now.Before(end) {
			r.Next = now.Add(q.o.Schedule[min(r.Attempts, len(q.o.Schedule))-1])
			if r.Next.After(end) {
				r.Next = end // one last attempt
			}
			break
		}
		r.State, word = Failed, "given up"
		r.Reply = fmt.Sprintf("451 4.4.7 given up after %d attempts; the last one: %s", r.Attempts, o.reply)
	}
	q.o.Logger.Info("delivery",
		zap.String("queue", FormatID(e.id)), zap.String("session", e.Envelope.Session),
		zap.String("from", e.Envelope.From), zap.String("to", r.Address), zap.Stringer("lane", r.Lane),
		zap.String("outcome", word), zap.String("reply", o.reply), zap.String("server", o.server),
		zap.Int("attempts", r.Attempts), zap.Duration("took", now.Sub(e.Created)))
	if o.verdict == expanded {
		others = e.replace(r.To, o.to, now, q.laneOf)
	}
	return others
}

// settle makes durable what the entry says, puts reports into the queue, and
// deletes the entry once nothing is left to do. The caller holds e.mu. It goes
// on when ctx ends: what was delivered should be known after the next start.
func (q *Queue) settle(ctx context.Context, e *entry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	if e.dirty && (!e.finished() || e.unreported() != nil) {
		// Saved before a report is made: if a crash makes it be made again,
		// it must be the same.
		if err := q.store.QueueUpdate(ctx, e.id, e.encode()); err != nil {
			return err
		}
		e.dirty = false
	}
	for report := e.unreported(); report != nil; report = e.unreported() {
		if err := q.report(ctx, e, report); err != nil {
			return fmt.Errorf("report to the sender: %w", err)
		}
		for _, r := range report {
			r.Reported = true
		}
		e.dirty = true
	}
	switch {
	case e.finished():
		if err := q.store.QueueDelete(ctx, e.id); err != nil && !errors.Is(err, backend.ErrNoMessage) {
			return err // ErrNoMessage: an attempt of unknown outcome deleted it
		}
		e.gone = true
		q.forget(e)
	case e.dirty:
		if err := q.store.QueueUpdate(ctx, e.id, e.encode()); err != nil {
			return err
		}
		e.dirty = false
	}
	return nil
}

// settleTime bounds the disk work behind an attempt.
const settleTime = 30 * time.Second

func (q *Queue) forget(e *entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.entries, e.id)
}

// planReport gives the recipients that have failed now their report, and those that
// were relayed to where nobody will report success another (RFC 3461 §5.2.2). The
// null sender gets none (RFC 5321 §6.1).
func (e *entry) planReport() {
	if e.Envelope.From == "" {
		return
	}
	for _, due := range []func(*Recipient) bool{
		func(r *Recipient) bool { return r.State == Failed && r.wantsFailure() },
		func(r *Recipient) bool { return r.Relayed },
	} {
		number := e.Reports + 1
		for i := range e.Recipients {
			if r := &e.Recipients[i]; r.Report == 0 && due(r) {
				r.Report, e.Reports = number, number
			}
		}
	}
}

// unreported returns the recipients of the first report that is not in the
// queue yet.
func (e *entry) unreported() (out []*Recipient) {
	for i := range e.Recipients {
		r := &e.Recipients[i]
		if r.Report != 0 && !r.Reported && (out == nil || r.Report == out[0].Report) {
			out = append(out, r)
		}
	}
	return out
}

// wantsFailure reads NOTIFY (RFC 3461 §4.1).
func (r *Recipient) wantsFailure() bool {
	if len(r.Notify) == 0 {
		return true
	}
	return r.wants("FAILURE")
}

// deliver makes one attempt. The answers are in the order of the recipients.
func (q *Queue) deliver(ctx context.Context, lane Lane, e *entry, recipients []Recipient) []outcome {
	body, err := q.store.QueueBody(ctx, e.id)
	if err != nil {
		return all(recipients, q.failure(ctx, fmt.Errorf("open the queued message: %w", err)))
	}
	defer body.Close()
	switch lane {
	case LaneLocal:
		return q.deliverLocal(ctx, e.Envelope, body, recipients)
	case LaneProxies:
		return q.deliverTo(ctx, q.o.Proxies, e.Envelope, body, recipients)
	default:
		return q.deliverTo(ctx, q.o.Relay, e.Envelope, body, recipients)
	}
}

// all gives every recipient the same outcome.
func all(recipients []Recipient, o outcome) []outcome {
	out := make([]outcome, len(recipients))
	for i := range out {
		out[i] = o
	}
	return out
}

// failure is the outcome of what went wrong on this node.
func (q *Queue) failure(ctx context.Context, err error) outcome {
	if ctx.Err() != nil {
		return outcome{verdict: cut}
	}
	return outcome{verdict: retry, reply: "451 4.3.0 " + OneLine(err.Error())}
}

// OneLine makes a text fit for a reply, a log and a report.
func OneLine(s string) string {
	const most = 400
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}
