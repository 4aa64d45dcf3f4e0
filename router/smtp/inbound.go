package smtp

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"switchyard/internal/origin"
	"switchyard/internal/smtpd"
	"switchyard/internal/spool"
	"switchyard/lookup"
	"switchyard/router"

	"go.uber.org/zap"
)

// Inbound is the protocol of port 25: mail from the world for the cluster's own
// recipients. It is safe for concurrent use.
type Inbound struct {
	o       Options
	domains domains
}

// NewInbound makes the protocol.
func NewInbound(o Options) *Inbound {
	o.fill()
	return &Inbound{o: o, domains: newDomains(o.Domains)}
}

// Name implements router.Protocol.
func (*Inbound) Name() string { return "smtp" }

// Busy implements router.Busy.
func (*Inbound) Busy() string { return busy }

// Serve implements router.Protocol.
func (p *Inbound) Serve(ctx context.Context, s *router.Session) error {
	f := &inbound{p: p, s: s, legs: make(map[string]*leg)}
	defer f.close()
	return ended(smtpd.Serve(ctx, s.Conn, p.o.dialogue(s), func(c *smtpd.Conn) smtpd.Session { f.conn = c; return f }))
}

// inbound is a session with one sender of mail. Its connections to backends
// live as long as it does.
type inbound struct {
	p    *Inbound
	s    *router.Session
	conn *smtpd.Conn
	helo string // as another proxy heard it

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

// Trusts implements smtpd.Identifier.
func (f *inbound) Trusts() bool { return f.s.Trusted() }

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
	f.t = &transaction{from: from, params: p, seen: make(map[string]bool)}
	f.t.trace = smtpd.Trace{
		Hello: f.hello(), Client: f.s.Client.Addr(), By: f.s.Hostname(), With: f.conn.With(), ID: f.s.ID, Time: time.Now(),
	}.Field()
	return nil
}

// Rcpt implements smtpd.Session: the recipient's own backend decides.
func (f *inbound) Rcpt(ctx context.Context, to smtpd.Path, p smtpd.RcptParams) error {
	if !f.p.domains.local(to) {
		return replyRelay
	}
	address := to.String()
	key := strings.ToLower(address)
	if f.t.seen[key] {
		return nil // once is enough
	}
	if err := f.find(ctx, recipient{address: address, params: p}); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return recipientReply(err)
	}
	f.t.seen[key] = true
	f.t.recipients = append(f.t.recipients, address)
	f.s.Admit() // one who has mail for us is no longer a stranger at the door
	return nil
}

// find looks the recipient up and offers it to its backend. A backend that says
// that the account lives elsewhere costs one more look, past the cache, and one
// more offer.
func (f *inbound) find(ctx context.Context, to recipient) error {
	account, err := f.s.Lookup(ctx, to.address)
	if err != nil {
		return err
	}
	home, err := f.offer(ctx, account, to)
	if !errors.Is(err, router.ErrMoved) {
		return err
	}
	again, err := f.s.Again(ctx, account.Name)
	if err != nil {
		return err
	}
	if now, err := f.s.Home(again); err != nil || now == home {
		// The directory does not show the move yet.
		return errors.Join(err, router.ErrMoved)
	}
	_, err = f.offer(ctx, again, to)
	return err
}

// offer says RCPT to the account's backend and returns the backend's name and
// its answer.
func (f *inbound) offer(ctx context.Context, account lookup.Account, to recipient) (home string, err error) {
	if !account.Status.MayReceive() {
		return "", &router.StatusError{Status: account.Status}
	}
	if home, err = f.s.Home(account); err != nil {
		return "", err
	}
	to.account = account
	if !strings.Contains(to.address, "@") {
		to.address = account.Name // <postmaster>
	}
	l, err := f.leg(ctx, home)
	if err != nil {
		return home, err
	}
	if one := f.t.foreign(); one != nil && one != l && l.foreign() {
		return home, replyForeign
	}
	err = l.recipient(f.t, to)
	if l.lost && l.used && l.accepted == 0 && ctx.Err() == nil {
		// It was idle since the message before: the backend may have closed it.
		f.drop(l)
		if l, err = f.leg(ctx, home); err != nil {
			return home, err
		}
		err = l.recipient(f.t, to)
	}
	if l.lost {
		f.drop(l)
	}
	if err == nil && f.t.leg(home) == nil {
		f.t.legs = append(f.t.legs, l)
	}
	return home, err
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
	r := f.data(ctx, body, message)
	if r.Positive() {
		f.messages++
	}
	f.s.Log.Info("message",
		zap.String("from", f.t.from.String()), zap.Strings("recipients", f.t.recipients), zap.Int64("size", message.Size()),
		zap.Duration("took", time.Since(began)), zap.String("answer", r.Error()))
	return []smtpd.Reply{r}
}

func (f *inbound) data(ctx context.Context, body io.Reader, message *spool.Spool) smtpd.Reply {
	in := &incoming{r: body}
	if _, err := io.Copy(message, in); err != nil {
		if in.err == nil {
			f.s.Log.Error("message cannot be spooled", zap.Error(err))
			return smtpd.NewReply(452, "4.3.1", "no room for the message now, try again later")
		}
		return smtpd.ReplyOf(in.err)
	}
	received, err := countReceived(message.Reader())
	switch {
	case err != nil:
		return smtpd.ReplyOf(err)
	case received > maxReceived:
		return smtpd.NewReply(554, "5.4.6", "too many Received fields, the message goes round in a circle")
	}
	return combine(f.t.deliver(message), smtpd.NewReply(250, "2.0.0", "accepted as "+f.s.ID))
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
		l.dirty = l.dirty || l.begun
		l.begun, l.accepted, l.used = false, 0, true
	}
}
