package queue

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"switchyard/backend"
)

// wants reports whether NOTIFY has a word (RFC 3461 §4.1).
func (t *To) wants(word string) bool {
	return slices.ContainsFunc(t.Notify, func(n string) bool { return strings.EqualFold(n, word) })
}

// withoutSuccess is a recipient whose success is not reported: of all that an
// address has become, one at most is (RFC 3461 §5.2.7.3).
func (t To) withoutSuccess() To {
	if !t.wants("SUCCESS") {
		return t
	}
	t.Notify = slices.DeleteFunc(slices.Clone(t.Notify), func(n string) bool { return strings.EqualFold(n, "SUCCESS") })
	if len(t.Notify) == 0 {
		t.Notify = []string{"NEVER"} // none would mean FAILURE
	}
	return t
}

// reportsSuccess reports whether the sender is to hear of a delivery: not the null
// sender (RFC 5321 §6.1), and nobody whom mail from here cannot reach.
func (q *Queue) reportsSuccess(to To, env Envelope) bool {
	return to.wants("SUCCESS") && env.From != "" && q.reaches(env.From)
}

// reaches reports whether mail from here has a way to an address.
func (q *Queue) reaches(address string) bool { return q.IsLocal(address) || q.Relays() }

// keepAndReport puts a message into the mailbox and then the report into the queue,
// once for each delivery. Its place there is reserved first: a full queue must not
// have a message without a delivery id come twice.
func (q *Queue) keepAndReport(ctx context.Context, m Mailbox, d backend.Delivery, env Envelope, body io.ReaderAt, size int64) (backend.Delivered, error) {
	if err := q.reserve(); err != nil {
		return backend.Delivered{}, err
	}
	done, err := q.keep(ctx, m, d, env)
	if err != nil {
		q.release()
		return done, err
	}
	id := derived(d.ID, "success of "+strings.ToLower(m.Address))
	unique := strings.ToLower(rand.Text())
	if id != [32]byte{} {
		unique = fmt.Sprintf("%x", id[:16])
	}
	text, err := q.success(m.To, env, unique, body, size)
	if err != nil {
		q.release()
		return done, err
	}
	_, err = q.add(ctx, id, env.answer(), strings.NewReader(text), int64(len(text)))
	return done, err
}

// success writes the report. It gives back the header, whatever RET says
// (RFC 3461 §6.2).
func (q *Queue) success(to To, env Envelope, unique string, body io.ReaderAt, size int64) (string, error) {
	header, err := readHeader(io.NewSectionReader(body, 0, size))
	if err != nil {
		return "", err
	}
	now := time.Now()
	text, err := q.dsn(notice{
		env: env, action: "delivered", created: now, when: now, unique: unique, kind: "text/rfc822-headers", returned: string(header),
		about: []*Recipient{{To: to, Reply: "250 2.1.5 delivered", Last: now}},
	})
	return string(text), err
}
