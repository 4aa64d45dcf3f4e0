package smtp

import (
	"context"
	"errors"
	"fmt"
	"io"

	"switchyard/internal/origin"
	"switchyard/internal/smtpd"
	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/upstream"
)

// Submission is the protocol of ports 587 and 465. It is safe for concurrent
// use.
type Submission struct{ o Options }

// NewSubmission makes the protocol. Of the options it uses MaxSize.
func NewSubmission(o Options) *Submission {
	o.fill()
	return &Submission{o}
}

// Name implements router.Protocol.
func (*Submission) Name() string { return "submission" }

// Busy implements router.Busy.
func (*Submission) Busy() string { return busy }

// Serve implements router.Protocol.
func (p *Submission) Serve(ctx context.Context, s *router.Session) error {
	f := &submission{s: s}
	o := p.o.dialogue(s)
	o.RequireAuth = true
	err := ended(smtpd.Serve(ctx, s.Conn, o, func(c *smtpd.Conn) smtpd.Session { f.conn = c; return f }))
	if !errors.Is(err, smtpd.ErrTakeOver) {
		return err
	}
	// What the client has sent behind its login goes to the backend with the
	// splice, and not before this answer.
	s.Conn.WriteString("235 2.7.0 authentication succeeded\r\n")
	if err := s.Conn.Flush(); err != nil {
		f.back.Close()
		return err
	}
	return s.Join(ctx, f.back)
}

// submission is a client's session before its login.
type submission struct {
	s    *router.Session
	conn *smtpd.Conn
	back *router.Back // behind the login
}

// errBeforeLogin cannot happen: smtpd answers 530.
var errBeforeLogin = errors.New("command before login")

func (f *submission) Mail(context.Context, smtpd.Path, smtpd.MailParams) error { return errBeforeLogin }
func (f *submission) Rcpt(context.Context, smtpd.Path, smtpd.RcptParams) error { return errBeforeLogin }
func (f *submission) Data(context.Context, io.Reader) []smtpd.Reply            { return nil }
func (f *submission) Reset()                                                   {}

// Trusts implements smtpd.Identifier.
func (f *submission) Trusts() bool { return f.s.Trusted() }

// Identify implements smtpd.Identifier.
func (f *submission) Identify(_ context.Context, o origin.Origin) error { return believe(f.s, o) }

// believe takes over who the client is from another proxy.
func believe(s *router.Session, o origin.Origin) error {
	if err := s.Believe(o); err != nil {
		return smtpd.NewReply(550, "5.4.6", "proxies send the session round in a circle")
	}
	return nil
}

// Auth implements smtpd.Authenticator: check the password, go to the backend
// that owns the account, log in there as the proxy for the user.
func (f *submission) Auth(ctx context.Context, c smtpd.Credentials) error {
	b, err := f.login(ctx, c)
	if err == nil {
		f.back = b
		return smtpd.ErrTakeOver
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r := loginReply(f.s, err)
	if f.s.Exhausted() {
		return fmt.Errorf("%w: %w", smtpd.ErrAuthFailures, r)
	}
	return r
}

func (f *submission) login(ctx context.Context, c smtpd.Credentials) (*router.Back, error) {
	if !f.s.SameAccount(c.Authzid, c.Username) {
		return nil, f.s.Reject(ctx, "the authorisation identity is not the login's own")
	}
	account, err := f.s.Check(ctx, c.Username, c.Password)
	if err != nil {
		return nil, err
	}
	return f.s.Open(ctx, account, upstream.Submission, f.enter)
}

// enter is the login on the backend, a router.LoginFunc.
func (f *submission) enter(ctx context.Context, rb *router.Back, account lookup.Account) error {
	b := &back{Back: rb, s: f.s, hail: "EHLO"}
	if _, secret := b.Login(); secret == "" {
		return b.blame("no proxy secret is configured: set it here and on the backends", "no proxy secret")
	}
	o := f.s.Origin(account.Generation)
	o.HELO = f.conn.Hello()
	if err := b.hello(ctx, o); err != nil {
		return err
	}
	r, err := b.authenticate(account.Name)
	switch {
	case err != nil:
		return err
	case r.Code == 235:
		return nil
	case r.Enhanced == "4.1.6":
		return router.ErrMoved
	case r.Enhanced == "5.7.13":
		return router.NewRefused(r.Text)
	case r.Permanent():
		return b.noProxy(r)
	default:
		return fmt.Errorf("%w: AUTH: %s", router.ErrBackend, clip(r.Error()))
	}
}
