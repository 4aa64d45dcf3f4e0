package queue

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

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
	text, err := q.dsn(e, failed, kind, returned)
	if err != nil {
		return err
	}
	env := Envelope{To: []To{{Address: e.Envelope.From, Notify: []string{"NEVER"}}}, UTF8: e.Envelope.UTF8, Session: e.Envelope.Session}
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

// dsn writes the notification.
func (q *Queue) dsn(e *entry, failed []*Recipient, kind, returned string) ([]byte, error) {
	when := failed[0].Last
	unique := fmt.Sprintf("%s.%d.%d", FormatID(e.id), failed[0].Report, e.Created.UnixNano())
	var h mail.Header
	h.SetContentType("multipart/report", map[string]string{"report-type": "delivery-status", "boundary": "report-" + unique})
	h.SetAddressList("From", []*mail.Address{{Name: "Mail Delivery System", Address: "mailer-daemon@" + q.o.Hostname}})
	h.Set("To", "<"+e.Envelope.From+">")
	h.SetDate(when)
	h.SetMessageID("dsn." + unique + "@" + q.o.Hostname)
	h.SetSubject("Undelivered mail returned to sender")
	h.Set("Auto-Submitted", "auto-replied") // RFC 3834 §5

	var out bytes.Buffer
	w, err := message.CreateWriter(&out, h.Header)
	if err != nil {
		return nil, err
	}
	if err := part(w, "text/plain", explanation(q.o.Hostname, e, failed)); err != nil {
		return nil, err
	}
	if err := part(w, "message/delivery-status", status(q.o.Hostname, e, failed)); err != nil {
		return nil, err
	}
	if err := part(w, kind, returned); err != nil {
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
func explanation(host string, e *entry, failed []*Recipient) string {
	var b strings.Builder
	fmt.Fprintf(&b, "This is the mail system at %s.\r\n\r\nYour message of %s could not be delivered to:\r\n\r\n",
		host, e.Created.Format("2 January 2006 15:04 MST"))
	for _, r := range failed {
		fmt.Fprintf(&b, "  %s\r\n    %s\r\n", r.Address, r.Reply)
	}
	b.WriteString("\r\nIt will not be tried again. The message, or its header, is below.\r\n")
	return b.String()
}

// status is the part for programs (RFC 3464 §2).
func status(host string, e *entry, failed []*Recipient) string {
	var b strings.Builder
	if e.Envelope.ID != "" {
		fmt.Fprintf(&b, "Original-Envelope-Id: %s\r\n", OneLine(e.Envelope.ID))
	}
	fmt.Fprintf(&b, "Reporting-MTA: dns; %s\r\nArrival-Date: %s\r\n", host, e.Created.Format("Mon, 2 Jan 2006 15:04:05 -0700"))
	for _, r := range failed {
		b.WriteString("\r\n")
		if r.Original != "" {
			fmt.Fprintf(&b, "Original-Recipient: %s\r\n", OneLine(r.Original))
		}
		fmt.Fprintf(&b, "Final-Recipient: %s; %s\r\nAction: failed\r\nStatus: %s\r\n", addressType(r.Address), r.Address, enhanced(r.Reply))
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
