package queue

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
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

// report puts a delivery status notification (RFC 3464) about recipients that
// have failed, or were relayed, into the queue. It is made from the entry alone: made twice, it
// has the same bytes. The caller holds e.mu.
func (q *Queue) report(ctx context.Context, e *entry, about []*Recipient) error {
	kind, returned, err := q.returned(ctx, e, about[0].Relayed)
	if err != nil {
		return err
	}
	action := "failed"
	if about[0].Relayed {
		action = "relayed"
	}
	text, err := q.dsn(notice{
		env: e.Envelope, action: action, about: about, created: e.Created, when: about[0].Last, kind: kind, returned: returned,
		unique: fmt.Sprintf("%s.%d.%d", FormatID(e.id), about[0].Report, e.Created.UnixNano()),
	})
	if err != nil {
		return err
	}
	env := e.Envelope.answer()
	// A full queue must not keep an entry from ending: reports are few, and
	// each makes room for another.
	made := newEntry(env, about[0].Last, q.laneOf)
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
	action  string   // failed, delivered or relayed: what became of it
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
	h.SetSubject(n.words().subject)
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

// words are what a notification says to people.
type words struct{ subject, became, last string }

func (n *notice) words() words {
	switch n.action {
	case "delivered":
		return words{"Your mail was delivered", "was delivered to", "You asked to be told. The header of the message is below."}
	case "relayed":
		return words{"Your mail was passed on", "was passed on for",
			"You asked to be told of its delivery. The next server does not tell, so that you will hear only if it fails.\r\nThe header of the message is below."}
	}
	return words{"Undelivered mail returned to sender", "could not be delivered to", "It will not be tried again. The message, or its header, is below."}
}

// explanation is the part for people.
func (n *notice) explanation(host string) string {
	words := n.words()
	var b strings.Builder
	fmt.Fprintf(&b, "This is the mail system at %s.\r\n\r\nYour message of %s %s:\r\n\r\n",
		host, n.created.Format("2 January 2006 15:04 MST"), words.became)
	for _, r := range n.about {
		fmt.Fprintf(&b, "  %s\r\n    %s\r\n", r.Address, r.Reply)
	}
	b.WriteString("\r\n" + words.last + "\r\n")
	return b.String()
}

// status is the part for programs (RFC 3464 §2).
func (n *notice) status(host string) string {
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
		fmt.Fprintf(&b, "Final-Recipient: %s; %s\r\nAction: %s\r\nStatus: %s\r\n", addressType(r.Address), r.Address, n.action, enhanced(r.Reply))
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

// enhanced takes the status code (RFC 3463 §2) out of a reply. One that has none, or
// one of another class, says no more than its class.
func enhanced(reply string) string {
	fields := strings.Fields(reply)
	if len(fields) == 0 || !strings.Contains("245", reply[:1]) {
		return "5.0.0"
	}
	if len(fields) > 1 && statusCode.MatchString(fields[1]) && fields[1][0] == reply[0] {
		return fields[1]
	}
	return reply[:1] + ".0.0"
}

var statusCode = regexp.MustCompile(`^[245]\.[0-9]{1,3}\.[0-9]{1,3}$`)

// returned gives back the message, or its header. A message that is damaged
// must still be reported: then there is nothing of it. RET is about failures
// (RFC 3461 §6.2).
func (q *Queue) returned(ctx context.Context, e *entry, header bool) (kind, text string, err error) {
	ret := e.Envelope.Return
	if header {
		ret = "HDRS"
	}
	body, err := q.store.QueueBody(ctx, e.id)
	if err == nil {
		defer body.Close()
		kind, text, err = returnedPart(ret, body)
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
