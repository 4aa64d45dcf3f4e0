package smtp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"switchyard/internal/origin"
	"switchyard/internal/smtpd"
	"switchyard/internal/wire"
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
	f := &submission{s: s, maxSize: p.o.MaxSize}
	o := p.o.dialogue(s)
	o.RequireAuth = true
	o.MaxAuthFailures = math.MaxInt // the session counts
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

	maxSize int64
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

// Offers implements smtpd.Offerer. A client does not ask again behind its login, so
// that what is promised is what all backends offer there, and no more than this
// proxy's own bound of the size.
func (f *submission) Offers() []string {
	offer, _ := f.s.Capabilities()
	var out []string
	for _, keyword := range kept {
		params, ok := offer[keyword]
		if !ok {
			continue
		}
		if keyword == "SIZE" && f.maxSize > 0 {
			if n, err := strconv.ParseInt(params, 10, 64); err != nil || n == 0 || n > f.maxSize {
				params = strconv.FormatInt(f.maxSize, 10)
			}
		}
		out = append(out, strings.TrimSuffix(keyword+" "+params, " "))
	}
	return out
}

// kept are the extensions that work through a splice.
var kept = [...]string{
	"PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING", "BINARYMIME", "SMTPUTF8", "DSN", "SIZE", "LIMITS",
	"FUTURERELEASE", "DELIVERBY", "MT-PRIORITY", "REQUIRETLS",
}

// Mechanisms implements smtpd.Mechanist.
func (f *submission) Mechanisms() []string { return f.s.Mechanisms() }

// Exchange implements smtpd.Mechanist: find out who it is, go to the backend that
// owns the account, log in there for the user.
func (f *submission) Exchange(ctx context.Context, mechanism string, next func([]byte) ([]byte, error)) error {
	l, err := f.s.Authenticate(ctx, mechanism, next)
	return f.settle(ctx, l, err)
}

// Auth implements smtpd.Authenticator.
func (f *submission) Auth(ctx context.Context, c smtpd.Credentials) error {
	l, err := f.s.Password(ctx, c.Authzid, c.Username, c.Password)
	return f.settle(ctx, l, err)
}

// settle takes a login to its backend.
func (f *submission) settle(ctx context.Context, l *router.Login, err error) error {
	if err == nil {
		b := &submissionLogin{f: f, login: l}
		if f.back, err = f.s.Enter(ctx, l, upstream.Submission, b.run); err == nil {
			return smtpd.ErrTakeOver
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, wire.ErrSASL) {
		return err
	}
	r := loginReply(f.s, err)
	if f.s.Exhausted() {
		return fmt.Errorf("%w: %w", smtpd.ErrAuthFailures, r)
	}
	return r
}
