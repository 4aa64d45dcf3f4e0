package queue

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"switchyard/backend"

	"github.com/emersion/go-message"
	"github.com/emersion/go-message/mail"
	"go.uber.org/zap"
)

// maxReturned bounds what of a message its report gives back; of a bigger one
// only the header is returned, whatever RET says (RFC 3461 §6.2), and of a
// bigger header its beginning.
const maxReturned = 256 << 10

// report puts a delivery status notification (RFC 3464) about failed
// recipients into the queue. It is made from the entry alone: made twice, it
// has the same bytes. The caller holds e.mu.
func (q *Queue) report(ctx context.Context, e *entry, failed []*Recipient) error {
	kind, returned, err := q.returned(ctx, e)
	if err != nil {
		return err
	}
	text, err := q.dsn(notice{
		env: e.Envelope, about: failed, created: e.Created, when: failed[0].Last, kind: kind, returned: returned,
		unique: fmt.Sprintf("%s.%d.%d", FormatID(e.id), failed[0].Report, e.Created.UnixNano()),
	})
	if err != nil {
		return err
	}
	env := e.Envelope.answer()
	// A full queue must not keep an entry from ending: reports are few, and
	// each makes room for another.
	made := newEntry(env, failed[0].Last, q.laneOf)
	id, _, err := q.store.QueueAddOnce(ctx, [32]byte{}, made.encode(), bytes.NewReader(text), int64(len(text)))
	if err != nil {
		return err
	}
	made.id = id
	q.mu.Lock()
	defer q.mu.Unlock()
	q.entries[id] = made
	q.schedule(made)
	return nil
}

// answer is the envelope of a report about a message: it causes no reports itself.
func (e Envelope) answer() Envelope {
	return Envelope{To: []To{{Address: e.From, Notify: []string{"NEVER"}}}, UTF8: e.UTF8, Session: e.Session}
}

// notice is what a notification says.
type notice struct {
	env     Envelope // of the message
	success bool     // the recipients have it; else they have failed
	about   []*Recipient
	created time.Time // when the message came
	when    time.Time // of the notification
	unique  string    // its name

	kind, returned string // what of the message it gives back
}

// dsn writes the notification.
func (q *Queue) dsn(n notice) ([]byte, error) {
	var h mail.Header
	h.SetContentType("multipart/report", map[string]string{"report-type": "delivery-status", "boundary": "report-" + n.unique})
	h.SetAddressList("From", []*mail.Address{{Name: "Mail Delivery System", Address: "mailer-daemon@" + q.o.Hostname}})
	h.Set("To", "<"+n.env.From+">")
	h.SetDate(n.when)
	h.SetMessageID("dsn." + n.unique + "@" + q.o.Hostname)
	subject := "Undelivered mail returned to sender"
	if n.success {
		subject = "Your mail was delivered"
	}
	h.SetSubject(subject)
	h.Set("Auto-Submitted", "auto-replied") // RFC 3834 §5

	var out bytes.Buffer
	w, err := message.CreateWriter(&out, h.Header)
	if err != nil {
		return nil, err
	}
	if err := part(w, "text/plain", n.explanation(q.o.Hostname)); err != nil {
		return nil, err
	}
	if err := part(w, "message/delivery-status", n.status(q.o.Hostname)); err != nil {
		return nil, err
	}
	if err := part(w, n.kind, n.returned); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func part(w *message.Writer, kind, text string) error {
	var h message.Header
	params := map[string]string(nil)
	if kind == "text/plain" {
		params = map[string]string{"charset": "utf-8"}
	}
	h.SetContentType(kind, params)
	// RFC 2046 §5.2.1: a message part must not be encoded.
	if strings.ContainsFunc(text, func(r rune) bool { return r > 126 }) {
		h.Set("Content-Transfer-Encoding", "8bit")
	}
	p, err := w.CreatePart(h)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(p, text); err != nil {
		return err
	}
	return p.Close()
}

// explanation is the part for people.
func (n *notice) explanation(host string) string {
	became, last := "could not be", "It will not be tried again. The message, or its header, is below."
	if n.success {
		became, last = "was", "You asked to be told. The header of the message is below."
	}
	var b strings.Builder
	fmt.Fprintf(&b, "This is the mail system at %s.\r\n\r\nYour message of %s %s delivered to:\r\n\r\n",
		host, n.created.Format("2 January 2006 15:04 MST"), became)
	for _, r := range n.about {
		fmt.Fprintf(&b, "  %s\r\n    %s\r\n", r.Address, r.Reply)
	}
	b.WriteString("\r\n" + last + "\r\n")
	return b.String()
}

// status is the part for programs (RFC 3464 §2).
func (n *notice) status(host string) string {
	action := "failed"
	if n.success {
		action = "delivered"
	}
	var b strings.Builder
	if n.env.ID != "" {
		fmt.Fprintf(&b, "Original-Envelope-Id: %s\r\n", OneLine(n.env.ID))
	}
	fmt.Fprintf(&b, "Reporting-MTA: dns; %s\r\nArrival-Date: %s\r\n", host, n.created.Format("Mon, 2 Jan 2006 15:04:05 -0700"))
	for _, r := range n.about {
		b.WriteString("\r\n")
		if r.Original != "" {
			fmt.Fprintf(&b, "Original-Recipient: %s\r\n", OneLine(r.Original))
		}
		fmt.Fprintf(&b, "Final-Recipient: %s; %s\r\nAction: %s\r\nStatus: %s\r\n", addressType(r.Address), r.Address, action, enhanced(r.Reply))
		if r.Server != "" {
			fmt.Fprintf(&b, "Remote-MTA: dns; %s\r\n", r.Server)
		}
		fmt.Fprintf(&b, "Diagnostic-Code: smtp; %s\r\nLast-Attempt-Date: %s\r\n", r.Reply, r.Last.Format("Mon, 2 Jan 2006 15:04:05 -0700"))
	}
	return b.String()
}

// addressType names an address's type (RFC 6533 §3).
func addressType(address string) string {
	if strings.ContainsFunc(address, func(r rune) bool { return r > 126 }) {
		return "utf-8"
	}
	return "rfc822"
}

// enhanced takes the status code out of a reply.
func enhanced(reply string) string {
	fields := strings.Fields(reply)
	if len(fields) < 2 || strings.Count(fields[1], ".") != 2 {
		return "5.0.0"
	}
	return fields[1]
}

// returned gives back the message, or its header. A message that is damaged
// must still be reported: then there is nothing of it.
func (q *Queue) returned(ctx context.Context, e *entry) (kind, text string, err error) {
	body, err := q.store.QueueBody(ctx, e.id)
	if err == nil {
		defer body.Close()
		kind, text, err = returnedPart(e.Envelope.Return, body)
	}
	if err != nil && !errors.Is(err, backend.ErrBusy) && ctx.Err() == nil {
		q.o.Logger.Error("queued message cannot be read", zap.String("queue", FormatID(e.id)), zap.Error(err))
		return "text/rfc822-headers", "", nil
	}
	return kind, text, err
}

func returnedPart(ret string, original backend.Body) (kind, text string, err error) {
	r := io.NewSectionReader(original, 0, original.Size())
	if strings.EqualFold(ret, "FULL") && original.Size() <= maxReturned {
		raw, err := io.ReadAll(r)
		return "message/rfc822", string(raw), err
	}
	raw, err := readHeader(r)
	return "text/rfc822-headers", string(raw), err
}

// readHeader reads up to the empty line, or up to the bound.
func readHeader(r io.Reader) ([]byte, error) {
	br := bufio.NewReader(io.LimitReader(r, maxReturned))
	var header []byte
	for {
		line, err := br.ReadSlice('\n')
		if len(bytes.TrimRight(line, "\r\n")) == 0 && err != bufio.ErrBufferFull {
			return header, ignoreEOF(err)
		}
		header = append(header, line...)
		if err != nil && err != bufio.ErrBufferFull {
			return header, ignoreEOF(err)
		}
	}
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
