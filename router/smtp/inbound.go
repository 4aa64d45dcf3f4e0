package smtp

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"switchyard/internal/origin"
	"switchyard/internal/smtpd"
	"switchyard/internal/spool"
	"switchyard/lookup/resolve"
	"switchyard/router"

	"go.uber.org/zap"
)

// Inbound is the protocol of port 25: mail from the world for the cluster's own
// recipients. It is safe for concurrent use.
type Inbound struct {
	o        Options
	lmtp     bool
	resolver *resolve.Resolver // over no directory
}

// NewInbound makes the protocol. It refuses what resolve.New refuses.
func NewInbound(o Options) (*Inbound, error) {
	o.fill()
	r := o.Resolve
	r.Domains, r.LeaveForwards = append([]string{}, o.Domains...), true
	resolver, err := resolve.New(nil, r)
	return &Inbound{o: o, resolver: resolver}, err
}

// Name implements router.Protocol.
func (p *Inbound) Name() string {
	if p.lmtp {
		return "lmtp"
	}
	return "smtp"
}

// Busy implements router.Busy.
func (*Inbound) Busy() string { return busy }

// Serve implements router.Protocol.
func (p *Inbound) Serve(ctx context.Context, s *router.Session) error {
	f := &inbound{p: p, s: s, legs: make(map[string]*leg), resolver: p.resolver.Over(accounts{s})}
	defer f.close()
	o := p.o.dialogue(s)
	if !s.Trusted() {
		o.MaxMessages, o.MaxDomains, o.Pause = p.o.MaxMessages, p.o.MaxDomains, p.o.Pause
	}
	if p.lmtp {
		o.Pause = 0
		return p.serveLMTP(ctx, f, o)
	}
	return ended(smtpd.Serve(ctx, s.Conn, o, func(c *smtpd.Conn) smtpd.Session { f.conn = c; return f }))
}

// inbound is a session with one sender of mail. Its connections to backends
// live as long as it does.
type inbound struct {
	p    *Inbound
	s    *router.Session
	conn *smtpd.Conn
	helo string // as another proxy heard it

	resolver *resolve.Resolver

	t        *transaction
	legs     map[string]*leg // by home
	messages int             // accepted
}

// close says goodbye to the backends.
func (f *inbound) close() {
	for _, l := range f.legs {
		l.quit()
	}
	f.s.Note(zap.Int("messages", f.messages))
}

// Trusts implements smtpd.Identifier. What is said before STARTTLS may be anyone's
// words.
func (f *inbound) Trusts() bool { return f.s.Trusted() && !f.s.MayStartTLS() }

// Identify implements smtpd.Identifier.
func (f *inbound) Identify(_ context.Context, o origin.Origin) error {
	f.helo = o.HELO
	return believe(f.s, o)
}

// hello is what the client called itself, also when another proxy heard it.
func (f *inbound) hello() string {
	if f.helo != "" {
		return f.helo
	}
	return f.conn.Hello()
}

// Mail implements smtpd.Session. Backends hear of the sender with their first
// recipient.
func (f *inbound) Mail(_ context.Context, from smtpd.Path, p smtpd.MailParams) error {
	f.t = &transaction{from: from, params: p, seen: make(map[string]*addressee), offers: make(map[string]*offer)}
	f.t.trace = smtpd.Trace{
		Hello: f.hello(), Client: f.s.Client.Addr(), By: f.s.Hostname(), With: f.conn.With(), ID: f.s.ID, Time: time.Now(),
	}.Field()
	return nil
}

// leg returns the connection to a backend.
func (f *inbound) leg(ctx context.Context, home string) (*leg, error) {
	if l := f.t.leg(home); l != nil {
		if l.lost {
			// Its recipients cannot be had any more in this transaction.
			return nil, router.ErrBackend
		}
		return l, nil
	}
	if l := f.legs[home]; l != nil {
		return l, nil
	}
	l, err := openLeg(ctx, f.s, home, f.hello(), &f.p.o)
	if err != nil {
		return nil, err
	}
	f.legs[home] = l
	return l, nil
}

// drop gives up a connection that has failed.
func (f *inbound) drop(l *leg) {
	l.Close()
	if f.legs[l.home] == l {
		delete(f.legs, l.home)
	}
}

// Data implements smtpd.Session.
func (f *inbound) Data(ctx context.Context, body io.Reader) []smtpd.Reply {
	began := time.Now()
	message := spool.New(f.p.o.Spool)
	defer message.Close()
	replies := f.data(ctx, body, message)
	answers := make([]string, len(replies))
	for i, r := range replies {
		answers[i] = r.Error()
	}
	if slices.ContainsFunc(replies, smtpd.Reply.Positive) {
		f.messages++
	}
	f.s.Log.Info("message",
		zap.String("from", f.t.from.String()), zap.Strings("recipients", f.t.names()), zap.Int64("size", message.Size()),
		zap.Duration("took", time.Since(began)), zap.String("answer", strings.Join(answers, "; ")))
	return replies
}

// data returns one answer for SMTP, and for LMTP one for each recipient.
func (f *inbound) data(ctx context.Context, body io.Reader, message *spool.Spool) []smtpd.Reply {
	groups := f.t.groups(f.p.lmtp)
	same := func(r smtpd.Reply) []smtpd.Reply { return smtpd.Repeat(r, len(groups)) }
	in := &incoming{r: body}
	if _, err := io.Copy(message, in); err != nil {
		if in.err == nil {
			f.s.Log.Error("message cannot be spooled", zap.Error(err))
			return same(smtpd.NewReply(452, "4.3.1", "no room for the message now, try again later"))
		}
		return same(smtpd.ReplyOf(in.err))
	}
	seen, err := scanHeader(message.Reader())
	switch {
	case err != nil:
		return same(smtpd.ReplyOf(err))
	case seen.received > maxReceived:
		return same(smtpd.NewReply(554, "5.4.6", "too many Received fields, the message goes round in a circle"))
	}
	d := &delivery{f: f, t: f.t, message: message, id: seen.messageID, groups: groups}
	return d.run(ctx, smtpd.NewReply(250, "2.0.0", "accepted as "+f.s.ID))
}

// incoming remembers whether it was the message that could not be read.
type incoming struct {
	r   io.Reader
	err error
}

func (in *incoming) Read(p []byte) (int, error) {
	n, err := in.r.Read(p)
	if err != nil && err != io.EOF {
		in.err = err
	}
	return n, err
}

// Reset implements smtpd.Session. The connections stay; what is left of the
// transaction on them is given up with the next one.
func (f *inbound) Reset() {
	f.t = nil
	for _, l := range f.legs {
		if l.lost {
			f.drop(l)
			continue
		}
		l.finish()
	}
}
