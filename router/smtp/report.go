package smtp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"switchyard/internal/smtpd"

	"go.uber.org/zap"
)

// report tells the sender of those in a group that were refused for good, while
// others have the message or will have it: it puts a delivery status notification
// (RFC 3464) into the queue of a backend of ours, over the same leg by which mail
// goes there. It returns whether that has it, or nothing is to be reported: the null
// sender gets no reports (RFC 5321 §6.1), and others only those that they want.
//
// A retry, through whichever proxy, writes the same report but for what the queue
// leaves out of the delivery id, so that the sender hears once.
func (d *delivery) report(ctx context.Context, group []*offer) bool {
	var refused []*offer
	for _, o := range group {
		if !o.withheld && !o.reported && o.answer.Permanent() && !slices.Contains(refused, o) {
			refused = append(refused, o)
		}
	}
	wanted := slices.DeleteFunc(slices.Clone(refused), func(o *offer) bool { return !o.to.wantsFailure() })
	if len(wanted) > 0 && !d.t.from.IsNull() {
		if err := d.queue(ctx, wanted); err != nil {
			d.f.s.Log.Warn("refused recipients cannot be reported to the sender, who is asked to come back",
				zap.String("from", d.t.from.String()), zap.Error(err))
			return false
		}
	}
	for _, o := range refused {
		o.reported = true
	}
	return true
}

// wantsFailure reads NOTIFY (RFC 3461 §4.1).
func (r *recipient) wantsFailure() bool {
	return r.params.Notify == "" || slices.Contains(strings.Split(r.params.Notify, ","), "FAILURE")
}

var (
	errNoQueue    = errors.New("no backend has taken the report")
	errLostReport = errors.New("backend lost with the report in flight")
)

// queue gives the report to the first backend that takes it.
func (d *delivery) queue(ctx context.Context, refused []*offer) error {
	text, err := d.write(refused)
	if err != nil {
		return err
	}
	trace := smtpd.Trace{Hello: d.f.s.Hostname(), By: d.f.s.Hostname(), With: "SMTP", ID: d.f.s.ID, Time: time.Now()}.Field() +
		"Date: " + time.Now().Format("Mon, 2 Jan 2006 15:04:05 -0700") + "\r\n"
	t := &transaction{params: smtpd.MailParams{Body: "8BITMIME", UTF8: d.t.params.UTF8}, trace: trace}
	failed := errNoQueue
	for _, home := range d.queues() {
		l, err := d.f.leg(ctx, home)
		if err == nil && !l.has("XRELAY") {
			continue
		}
		o := &offer{to: recipient{address: d.t.from.String(), params: smtpd.RcptParams{Notify: "NEVER"}, relay: true}}
		if err == nil {
			l.finish()
			err = d.f.say(ctx, home, t, o)
		}
		if err == nil {
			o.leg.deliver(trace, bytes.NewReader(text))
			switch {
			case o.answer.Positive():
				return nil
			case o.answer == (smtpd.Reply{}): // it may have it: the retry asks it again
				return errors.Join(failed, errLostReport)
			}
			err = o.answer
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

// queues returns the backends that may be asked: those that have taken the message,
// and the default one.
func (d *delivery) queues() (homes []string) {
	for _, group := range d.groups {
		for _, o := range group {
			if o.leg != nil && o.answer.Positive() && !slices.Contains(homes, o.leg.home) {
				homes = append(homes, o.leg.home)
			}
		}
	}
	if home, ok := d.f.s.DefaultBackend(); ok && !slices.Contains(homes, home) {
		homes = append(homes, home)
	}
	return homes
}

// maxReturned bounds what of the message a report gives back; of a bigger one only
// the header is returned (RFC 3461 §6.2), and of a bigger header its beginning.
const maxReturned = 64 << 10

// write writes the report, but for what is in its trace.
func (d *delivery) write(refused []*offer) ([]byte, error) {
	kind, returned, err := d.returned()
	if err != nil {
		return nil, err
	}
	var people, programs strings.Builder
	for _, o := range refused {
		fmt.Fprintf(&people, "  %s\r\n    %s\r\n", o.to.address, oneLine(o.answer))
		programs.WriteString("\r\n")
		if o.to.params.ORcptType != "" {
			fmt.Fprintf(&programs, "Original-Recipient: %s; %s\r\n", o.to.params.ORcptType, o.to.params.ORcpt)
		}
		fmt.Fprintf(&programs, "Final-Recipient: %s; %s\r\nAction: failed\r\nStatus: %s\r\nDiagnostic-Code: smtp; %s\r\n",
			addressType(o.to.address), o.to.address, status(o.answer), oneLine(o.answer))
	}
	unique, err := d.unique(people.String())
	if err != nil {
		return nil, err
	}
	domain := d.f.domain(refused[0].to.address)
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: Mail Delivery System <mailer-daemon@%s>\r\nTo: <%s>\r\nSubject: Undelivered mail returned to sender\r\n"+
		"Message-ID: <report.%s@%s>\r\nAuto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n"+
		"Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=%q\r\n\r\n", domain, d.t.from, unique, domain, unique)
	part := func(kind, text string) {
		fmt.Fprintf(&b, "--%s\r\nContent-Type: %s\r\nContent-Transfer-Encoding: 8bit\r\n\r\n%s\r\n", unique, kind, text)
	}
	part("text/plain; charset=utf-8", "This is the mail system of "+domain+".\r\n\r\nYour message could not be delivered to:\r\n\r\n"+
		people.String()+"\r\nThis will not be tried again. Recipients who are not named here are not concerned.\r\n"+
		"The message, or its header, is below.\r\n")
	envelope := ""
	if id := d.t.params.EnvID; id != "" {
		envelope = "Original-Envelope-Id: " + id + "\r\n"
	}
	part("message/delivery-status", envelope+"Reporting-MTA: dns; "+domain+"\r\n"+programs.String())
	part(kind, returned)
	fmt.Fprintf(&b, "--%s--\r\n", unique)
	return b.Bytes(), nil
}

// unique names the report: by the message and what it says, when a retry can be
// told from another message.
func (d *delivery) unique(says string) (string, error) {
	if !d.id {
		return strings.ToLower(rand.Text()), nil
	}
	h := sha256.New()
	fmt.Fprintf(h, "switchyard report 1\x00%s\x00%s\x00", d.t.from, says)
	if _, err := io.Copy(h, d.message.Reader()); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:16]), nil
}

// returned is the message, or its header.
func (d *delivery) returned() (kind, text string, err error) {
	if d.t.params.Ret == "FULL" && d.message.Size() <= maxReturned {
		raw, err := io.ReadAll(d.message.Reader())
		return "message/rfc822", string(raw), err
	}
	r := bufio.NewReader(io.LimitReader(d.message.Reader(), maxReturned))
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil && err != io.EOF {
			return "", "", err
		}
		if len(strings.TrimRight(line, "\r\n")) == 0 || err == io.EOF {
			return "text/rfc822-headers", b.String(), nil
		}
		b.WriteString(line)
	}
}

// domain is the domain in whose name a recipient's refusal is reported: every proxy
// takes the same.
func (f *inbound) domain(address string) string {
	if i := strings.LastIndexByte(address, '@'); i >= 0 && address[i+1:] != "" {
		return address[i+1:]
	}
	return f.s.Hostname()
}

// addressType names an address's type (RFC 6533 §3).
func addressType(address string) string {
	if strings.ContainsFunc(address, func(r rune) bool { return r > '~' }) {
		return "utf-8"
	}
	return "rfc822"
}

// status is a refusal's status code (RFC 3463).
func status(r smtpd.Reply) string {
	if r.Enhanced == "" {
		return "5.0.0"
	}
	return r.Enhanced
}

// oneLine is a refusal as a report quotes it.
func oneLine(r smtpd.Reply) string {
	const most = 400
	text := strings.Map(func(c rune) rune {
		switch {
		case c < ' ':
			return ' '
		case c > '~':
			return '?'
		}
		return c
	}, r.Error())
	return text[:min(len(text), most)]
}
