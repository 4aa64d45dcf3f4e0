package smtp

import (
	"context"
	"errors"
	"io"
	"time"

	"switchyard/backend"
	"switchyard/backend/access"
	"switchyard/backend/queue"
	"switchyard/internal/smtpd"
	"switchyard/internal/spool"
	"switchyard/lookup"

	"go.uber.org/zap"
)

// Submission takes mail from users into the queue.
type Submission struct{ listener }

// NewSubmission makes a server. The gate decides about logins and knows the
// accounts that live here, the queue which domains are the cluster's.
func NewSubmission(gate *access.Gate, q *queue.Queue, o Options) *Submission {
	l := &Submission{listener{gate: gate, o: o.withDefaults(), name: "submission"}}
	l.open = func(s *session) smtpd.Session { return &submission{session: s, queue: q} }
	return l
}

// submission is one user's session.
type submission struct {
	*session
	queue   *queue.Queue
	account lookup.Account
	env     queue.Envelope
}

// Auth implements smtpd.Authenticator.
func (s *submission) Auth(ctx context.Context, c smtpd.Credentials) error {
	granted, err := s.gate.Login(ctx, access.Login{
		Authzid: c.Authzid, Authcid: c.Username, Password: c.Password,
		Peer: s.peer(), Client: s.origin.Client.Addr(), TLS: s.conn.TLS(),
		Generation: s.origin.Generation, Protocol: "submission",
	})
	if answer := (*access.ProbeError)(nil); errors.As(err, &answer) {
		return s.answer(answer)
	}
	if err != nil {
		r, expected := loginReply(err)
		if !expected {
			s.log.Error("login failed", zap.String("session", s.origin.Session), zap.Error(err))
		}
		return r
	}
	s.account, s.user, s.proxied = granted.Account, granted.User.Account(), granted.Proxied
	return nil
}

// Mail implements smtpd.Session: users send as themselves, as
// themselves+detail, and as nobody, which receipts need (RFC 6409 §6.1).
func (s *submission) Mail(_ context.Context, from smtpd.Path, p smtpd.MailParams) error {
	if !from.IsNull() && !s.mayUse(from) {
		return smtpd.NewReply(553, "5.7.1", "not your address") // RFC 6409 §6.1
	}
	s.env = queue.Envelope{From: from.String(), UTF8: p.UTF8, Return: p.Ret, ID: p.EnvID, Session: s.origin.Session}
	return nil
}

func (s *submission) mayUse(from smtpd.Path) bool {
	address := from.String()
	if base, found := queue.WithoutDetail(address); found {
		if name, err := lookup.CleanName(base, ""); err == nil && name == s.user {
			return true
		}
	}
	name, err := lookup.CleanName(address, "")
	return err == nil && name == s.user
}

// Rcpt implements smtpd.Session. Recipients of this cluster are looked up at
// once, so that a wrong address is told while the user is still there.
func (s *submission) Rcpt(ctx context.Context, to smtpd.Path, p smtpd.RcptParams) error {
	address := to.String()
	if !s.queue.IsLocal(address) {
		if !s.queue.Relays() {
			return smtpd.NewReply(550, "5.7.1", "no mail to other domains from here")
		}
		s.add(address, p)
		return nil
	}
	targets, err := s.find(ctx, address)
	if err != nil {
		r, expected := recipientReply(err)
		if !expected {
			s.failed("find "+address, err)
		}
		return r
	}
	for _, t := range targets {
		if t != address && p.ORcptType == "" && to.ASCII() { // who it was for is still known in a report
			p.ORcptType, p.ORcpt = "rfc822", address
		}
		s.add(t, p)
	}
	return nil
}

// find returns the addresses behind a local one.
func (s *submission) find(ctx context.Context, address string) ([]string, error) {
	if s.queue.Resolves() {
		return s.queue.Expand(ctx, address)
	}
	_, _, err := queue.FindRecipient(ctx, s.gate, address, 0)
	if errors.Is(err, backend.ErrMoved) { // elsewhere is somewhere
		err = nil
	}
	return []string{address}, err
}

func (s *submission) add(address string, p smtpd.RcptParams) {
	s.env.To = append(s.env.To, recipient(address, p))
}

// Data implements smtpd.Session.
func (s *submission) Data(ctx context.Context, body io.Reader) []smtpd.Reply {
	began := time.Now()
	message := spool.New(s.o.Spool)
	defer message.Close()
	trace := s.received(s.origin.Client.Addr(), s.hello())
	s.env.Trace = int64(len(trace))
	source := &source{r: body}
	var id uint64
	_, err := io.WriteString(message, trace)
	if err == nil {
		err = fixUp(message, source, s.o.Hostname, began)
	}
	if source.err != nil {
		return []smtpd.Reply{replyBusy} // smtpd knows better
	}
	if err == nil {
		id, err = s.queue.Accept(ctx, s.env, message, message.Size())
	}
	r := s.accepted(id, err)
	s.messages++
	addresses := make([]string, len(s.env.To))
	for i, to := range s.env.To {
		addresses[i] = to.Address
	}
	s.log.Info("message", zap.String("session", s.origin.Session), zap.String("protocol", "submission"),
		zap.String("user", s.user), zap.Stringer("client", s.origin.Client), zap.String("node", s.o.Node),
		zap.String("from", s.env.From), zap.Strings("to", addresses), zap.String("reply", r.Error()),
		zap.Int64("size", message.Size()), zap.Duration("took", time.Since(began)))
	return []smtpd.Reply{r}
}

// accepted words what became of the message.
func (s *submission) accepted(id uint64, err error) smtpd.Reply {
	switch {
	case err == nil:
		return smtpd.NewReply(250, "2.0.0", "queued as "+queue.FormatID(id))
	case errors.Is(err, errLoop):
		return smtpd.NewReply(554, "5.4.6", errLoop.Error())
	case errors.Is(err, backend.ErrTooBig):
		return smtpd.NewReply(552, "5.3.4", "message is bigger than the limit")
	case errors.Is(err, backend.ErrBusy):
		return smtpd.NewReply(452, "4.3.1", "the queue cannot take it now, try again later")
	}
	s.failed("queue", err)
	return replyBusy
}

// hello is what the client called itself: as the proxy heard it, if there is
// one.
func (s *submission) hello() string {
	if s.proxied && s.origin.HELO != "" {
		return s.origin.HELO
	}
	return s.conn.Hello()
}

// Reset implements smtpd.Session.
func (s *submission) Reset() { s.env = queue.Envelope{} }
