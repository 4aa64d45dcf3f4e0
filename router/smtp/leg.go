package smtp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"switchyard/internal/origin"
	"switchyard/internal/smtpd"
	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/upstream"

	"go.uber.org/zap"
)

// leg is a session's LMTP connection to one backend. It serves one transaction
// after the other.
type leg struct {
	back
	home  string
	o     *Options
	used  bool     // behind a transaction: the backend may have closed it since
	begun bool     // MAIL was said in the transaction at hand
	dirty bool     // the backend is in a transaction that was given up
	lost  bool     // the connection has failed
	taken []*offer // that were accepted in the transaction at hand
}

// foreign reports whether the backend has no delivery ids: a message that is
// sent to it again is there twice.
func (l *leg) foreign() bool { return !l.has("XTRACELEN") }

// openLeg connects to a backend and gets ready for MAIL.
func openLeg(ctx context.Context, s *router.Session, home, helo string, o *Options) (*leg, error) {
	rb, err := s.Dial(ctx, home, upstream.LMTP)
	if err != nil {
		return nil, err
	}
	l := &leg{back: back{Back: rb, s: s, hail: "LHLO"}, home: home, o: o}
	if err := l.prepare(ctx, helo); err != nil {
		l.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	l.Settle()
	return l, nil
}

// prepare does what comes before MAIL. The proxy logs in where that is asked
// for; what is offered may be more then.
func (l *leg) prepare(ctx context.Context, helo string) error {
	from := l.s.Origin(0)
	from.HELO = helo
	if err := l.greeting(ctx); err != nil {
		return err
	}
	_, line, err := l.ownLogin()
	if err != nil {
		return err
	}
	r, err := l.identify(from, line)
	if err != nil {
		return err
	}
	if r == nil {
		// What is offered to a client that is known may be less, or more.
		message, _, err := l.ownLogin()
		if message == nil {
			return err
		}
		answer, err := l.authenticate(message)
		if err != nil {
			return err
		}
		r = &answer
	}
	switch {
	case r.Permanent():
		return l.noProxy(*r)
	case r.Code != 235:
		return fmt.Errorf("%w: AUTH: %s", router.ErrBackend, clip(r.Error()))
	case l.foreign():
		return l.introduce()
	}
	return nil
}

// ownLogin is the proxy's own login, as a message and as a line, where the server
// asks for one; nil where it does not.
func (l *leg) ownLogin() (message []byte, line string, err error) {
	if _, secret := l.Login(); secret == "" || !containsWord(l.offers["AUTH"], "PLAIN") {
		return nil, "", nil
	}
	if message, err = l.proxyLogin(); err != nil {
		return nil, "", err
	}
	return message, plainLine(message), nil
}

func containsWord(list, word string) bool {
	for w := range strings.FieldsSeq(list) {
		if strings.EqualFold(w, word) {
			return true
		}
	}
	return false
}

// recipient offers a recipient, with the sender in front when it is the
// transaction's first here. The error is nil when it was accepted, else the
// backend's Reply, router.ErrMoved, or what broke the connection.
func (l *leg) recipient(t *transaction, o *offer) error {
	var lines []string
	if !l.begun {
		if l.dirty {
			lines = append(lines, "RSET")
		}
		mail, err := l.mailLine(t)
		if err != nil {
			return err
		}
		lines = append(lines, mail)
	}
	lines = append(lines, l.rcptLine(o.to))
	l.Conn.SetIdle(l.o.ReplyTimeout)
	replies, err := l.exchange(lines...)
	if err != nil {
		l.lost = true
		return err
	}
	if !l.begun {
		if l.dirty {
			l.dirty, replies = false, replies[1:]
		}
		l.begun = replies[0].Positive()
		if !l.begun {
			return l.judge("MAIL", replies[0])
		}
		replies = replies[1:]
	}
	if err := l.judge("RCPT", replies[0]); err != nil {
		return err
	}
	o.leg = l
	l.taken = append(l.taken, o)
	return nil
}

// retract takes recipients back that were accepted: LMTP can do so only by
// beginning anew with the others. When that fails, the leg is lost to them.
func (l *leg) retract(t *transaction, gone func(*offer) bool) {
	kept := slices.DeleteFunc(slices.Clone(l.taken), gone)
	if len(kept) == len(l.taken) || l.lost {
		return
	}
	l.finish()
	for _, o := range kept {
		if err := l.recipient(t, o); err != nil {
			l.s.Log.Warn("recipients cannot be kept while another is taken back", zap.String("home", l.home), zap.Error(err))
			l.lost, l.taken = true, kept
			return
		}
	}
}

// finish ends the transaction at hand. What is left of it at the backend is given
// up with the next one.
func (l *leg) finish() {
	l.dirty = l.dirty || l.begun
	l.begun, l.taken, l.used = false, nil, true
}

// judge makes an error of a backend's answer. What a backend says for good
// about a recipient is passed on. What it says about our way of talking is the
// operator's affair.
func (l *leg) judge(verb string, r smtpd.Reply) error {
	switch {
	case r.Positive():
		return nil
	case r.Enhanced == "4.1.6":
		return router.ErrMoved
	case r.Code == 421:
		l.lost = true
		return l.refused(verb, r)
	case r.Temporary(), isVerdict(r):
		return r
	case r.Permanent():
		return l.blame("backend does not understand the proxy, or wants another login", verb+": "+clip(r.Error()))
	}
	return l.refused(verb, r)
}

// isVerdict tells a refusal of a mailbox or a message from a complaint about
// the dialogue (500 to 504, 530, 535, 555).
func isVerdict(r smtpd.Reply) bool { return r.Code >= 550 && r.Code <= 554 || r.Code == 556 }

// mailLine is MAIL with the parameters that this backend offers.
func (l *leg) mailLine(t *transaction) (string, error) {
	p := t.params
	if p.UTF8 && !l.has("SMTPUTF8") {
		return "", replyUTF8 // RFC 6531 §3.2
	}
	b := []byte("MAIL FROM:<" + t.from.String() + ">")
	if l.has("SIZE") && p.Size > 0 {
		b = fmt.Appendf(b, " SIZE=%d", p.Size+int64(len(t.trace)))
	}
	if p.Body != "" && l.has("8BITMIME") {
		b = append(b, " BODY="+p.Body...)
	}
	if p.UTF8 {
		b = append(b, " SMTPUTF8"...)
	}
	if l.has("DSN") && p.Ret != "" {
		b = append(b, " RET="+p.Ret...)
	}
	if l.has("DSN") && p.EnvID != "" {
		b = append(b, " ENVID="+origin.XText(p.EnvID)...)
	}
	if l.has("XTRACELEN") {
		b = append(b, " XTRACELEN="+strconv.Itoa(len(t.trace))...)
	}
	return string(b), nil
}

// rcptLine is RCPT with the parameters that this backend offers.
func (l *leg) rcptLine(to recipient) string {
	b := []byte("RCPT TO:<" + to.address + ">")
	if l.has("DSN") && to.params.Notify != "" {
		b = append(b, " NOTIFY="+to.params.Notify...)
	}
	if l.has("DSN") && to.params.ORcptType != "" {
		b = append(b, " ORCPT="+to.params.ORcptType+";"+origin.XText(to.params.ORcpt)...)
	}
	if l.has("XRCPTFORWARD") && to.account.Generation > 0 {
		b = append(b, " XRCPTFORWARD="+origin.ForwardGeneration(to.account.Generation)...)
	}
	if to.relay {
		b = append(b, " XRELAY"...)
	}
	return string(b)
}

// recipient is who is offered to a backend.
type recipient struct {
	address string // as it is said to the backend
	params  smtpd.RcptParams
	account lookup.Account
	relay   bool // the backend's queue takes it
}

// deliver sends the message and notes an answer for each accepted recipient. An
// answer that never came stays zero: whether the message was taken is not known.
func (l *leg) deliver(trace string, message io.Reader) {
	for i, r := range l.answers(trace, message) {
		l.taken[i].answer = r
	}
}

func (l *leg) answers(trace string, message io.Reader) []smtpd.Reply {
	answers := make([]smtpd.Reply, len(l.taken))
	if l.lost {
		return answers
	}
	l.Conn.SetIdle(l.o.ReplyTimeout)
	r, err := l.ask("DATA")
	if err == nil && r.Code != 354 {
		return l.unsent(r)
	}
	if err == nil {
		err = l.send(trace, message)
	}
	if err == nil {
		err = l.readAnswers(answers)
	}
	if err != nil {
		l.lost = true
		l.s.Log.Warn("backend lost with a message in flight", zap.String("home", l.home), zap.String("node", l.Node), zap.Error(err))
		return answers
	}
	l.begun = false
	return answers
}

// unsent answers for a message that the backend did not want to hear. A yes to
// what was not sent is no yes.
func (l *leg) unsent(r smtpd.Reply) []smtpd.Reply {
	l.lost = r.Code == 421 || !r.Temporary() && !r.Permanent()
	if l.lost {
		r = smtpd.Reply{}
	}
	return smtpd.Repeat(final(r), len(l.taken))
}

// readAnswers reads an answer for each recipient, within FinalTimeout for all.
func (l *leg) readAnswers(answers []smtpd.Reply) error {
	l.Conn.SetIdle(l.o.FinalTimeout)
	l.Conn.SetDeadline(time.Now().Add(l.o.FinalTimeout))
	defer l.Conn.SetDeadline(time.Time{})
	for i := range answers {
		r, err := l.reply("message")
		if err != nil {
			return err
		}
		answers[i] = final(r)
		if r.Code == 421 || r.Code/100 == 3 {
			return l.refused("message", r)
		}
	}
	return nil
}

// final reads an answer to a message: what is neither yes nor a verdict on the
// message is "not now".
func final(r smtpd.Reply) smtpd.Reply {
	if r.Positive() || r.Temporary() || isVerdict(r) {
		return r
	}
	return smtpd.Reply{}
}

// send writes the message with its dots stuffed, and the end of the message
// (RFC 5321 §4.5.2).
func (l *leg) send(trace string, message io.Reader) error {
	l.Conn.WriteString(trace)
	w := stuffer{w: l.Conn}
	if _, err := io.Copy(&w, message); err != nil {
		return l.failed("message", err)
	}
	if err := w.end(); err != nil {
		return l.failed("message", err)
	}
	return nil
}

// quit says goodbye without waiting for the answer.
func (l *leg) quit() {
	if !l.lost {
		l.Conn.SetIdle(quitTimeout)
		l.Conn.Line("QUIT")
	}
	l.Close()
}

// quitTimeout bounds the one write of a goodbye.
const quitTimeout = time.Second

// stuffer doubles the dot at the start of a line. What goes through it has its
// CRs and LFs in pairs.
type stuffer struct {
	w   io.Writer
	mid bool // what was written does not end a line
}

var lfDot = []byte("\n.")

func (s *stuffer) Write(p []byte) (n int, err error) {
	for n < len(p) {
		rest := p[n:]
		if rest[0] == '.' && !s.mid {
			if _, err := s.w.Write(rest[:1]); err != nil {
				return n, err
			}
		}
		if i := bytes.Index(rest, lfDot); i >= 0 {
			rest = rest[:i+1]
		}
		m, err := s.w.Write(rest)
		n += m
		if err != nil {
			return n, err
		}
		s.mid = rest[len(rest)-1] != '\n'
	}
	return n, nil
}

// end writes the end of the message. One that came by BDAT may lack its last
// CRLF.
func (s *stuffer) end() error {
	end := ".\r\n"
	if s.mid {
		end = "\r\n.\r\n"
	}
	_, err := io.WriteString(s.w, end)
	return err
}
