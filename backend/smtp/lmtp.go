package smtp

import (
	"context"
	"io"
	"strings"
	"time"

	"switchyard/backend"
	"switchyard/backend/access"
	"switchyard/backend/queue"
	"switchyard/internal/smtpd"
	"switchyard/internal/spool"
	"switchyard/lookup"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// LMTP takes mail from the proxies into mailboxes.
type LMTP struct{ listener }

// NewLMTP makes a server. The gate knows the proxies, and which accounts live
// here; the queue delivers to them, and takes what goes on from here.
func NewLMTP(gate *access.Gate, q *queue.Queue, o Options) *LMTP {
	l := &LMTP{listener{gate: gate, o: o.withDefaults(), lmtp: true, name: "lmtp"}}
	l.open = func(s *session) smtpd.Session { return &lmtp{session: s, queue: q} }
	return l
}

// deliveriesAtOnce bounds how many recipients of one message are delivered at
// a time; together they share the disk's syncs.
const deliveriesAtOnce = 16

// lmtp is one session with a proxy.
type lmtp struct {
	*session
	queue *queue.Queue
	env   queue.Envelope
	to    []target
}

type target struct {
	queue.To
	relay   bool // to be passed on; else:
	user    backend.User
	account lookup.Account
}

// Auth implements smtpd.Authenticator: proxies only, as themselves.
func (s *lmtp) Auth(_ context.Context, c smtpd.Credentials) error {
	l := access.Login{Authzid: c.Authzid, Authcid: c.Username, Password: c.Password, Peer: s.peer(), TLS: s.conn.TLS()}
	if answer := s.gate.Probe(l); answer != nil {
		return s.answer(answer)
	}
	if c.Authzid != "" && c.Authzid != c.Username || !s.gate.Proxy(c.Username, c.Password, s.peer(), s.conn.TLS()) {
		return smtpd.NewReply(535, "5.7.8", "not a proxy of this cluster")
	}
	s.user, s.proxied = c.Username, true
	return nil
}

// OffersPrivate implements smtpd.Private.
func (s *lmtp) OffersPrivate() bool { return s.conn.Authenticated() }

// Mail implements smtpd.Session.
func (s *lmtp) Mail(_ context.Context, from smtpd.Path, p smtpd.MailParams) error {
	s.env = queue.Envelope{From: from.String(), UTF8: p.UTF8, Return: p.Ret, ID: p.EnvID, Trace: p.Trace, Session: s.origin.Session}
	return nil
}

// Rcpt implements smtpd.Session. It is the only place where LMTP says no for
// good.
func (s *lmtp) Rcpt(ctx context.Context, to smtpd.Path, p smtpd.RcptParams) error {
	address := to.String()
	if p.Relay {
		if !s.queue.IsLocal(address) && !s.queue.Relays() {
			return replyRelay
		}
		s.to = append(s.to, target{To: recipient(address, p), relay: true})
		return nil
	}
	user, account, err := queue.FindRecipient(ctx, s.gate, address, p.Generation)
	if err == nil {
		err = s.queue.Chain(ctx, account)
	}
	if err != nil {
		r, expected := recipientReply(err)
		if !expected {
			s.failed("find "+address, err)
		}
		return r
	}
	s.to = append(s.to, target{To: recipient(address, p), user: user, account: account})
	return nil
}

// recipient is a recipient with what the sender wants to hear of it.
func recipient(address string, p smtpd.RcptParams) queue.To {
	to := queue.To{Address: address}
	if p.Notify != "" {
		to.Notify = strings.Split(p.Notify, ",")
	}
	if p.ORcptType != "" {
		to.Original = p.ORcptType + ";" + p.ORcpt
	}
	return to
}

// Data implements smtpd.Session.
func (s *lmtp) Data(ctx context.Context, body io.Reader) []smtpd.Reply {
	began := time.Now()
	message := spool.New(s.o.Spool)
	defer message.Close()
	source := &source{r: body}
	if _, err := io.Copy(message, source); err != nil {
		if source.err == nil {
			s.failed("spool", err)
		}
		return smtpd.Repeat(replyBusy, len(s.to))
	}
	replies := make([]smtpd.Reply, len(s.to))
	var all errgroup.Group
	all.SetLimit(deliveriesAtOnce)
	for i, to := range s.to {
		all.Go(func() error {
			replies[i] = s.deliver(ctx, to, message)
			return nil
		})
	}
	all.Wait()
	s.account(replies, message.Size(), time.Since(began))
	return replies
}

// deliver files the message for one recipient.
func (s *lmtp) deliver(ctx context.Context, to target, message *spool.Spool) smtpd.Reply {
	var done backend.Delivered
	var err error
	head := s.received(s.peer(), s.conn.Hello())
	if to.relay {
		err = s.queue.Relay(ctx, to.To, s.env, head, message, message.Size())
	} else {
		m := queue.Mailbox{User: to.user, Account: to.account, To: to.To}
		done, err = s.queue.Deliver(ctx, m, s.env, head, message, message.Size())
	}
	r, expected := deliveryReply(done, err)
	if !expected {
		s.failed("deliver to "+to.Address, err)
	}
	return r
}

// account writes the message's line.
func (s *lmtp) account(replies []smtpd.Reply, size int64, took time.Duration) {
	addresses, answers := make([]string, len(s.to)), make([]string, len(s.to))
	delivered := 0
	for i, r := range replies {
		addresses[i], answers[i] = s.to[i].Address, r.Error()
		if r.Positive() {
			delivered++
		}
	}
	s.messages++
	s.log.Info("message", zap.String("session", s.origin.Session), zap.String("protocol", "lmtp"),
		zap.Stringer("client", s.origin.Client), zap.String("node", s.o.Node), zap.String("from", s.env.From),
		zap.Strings("to", addresses), zap.Strings("replies", answers), zap.Int("delivered", delivered),
		zap.Int64("size", size), zap.Duration("took", took))
}

// Reset implements smtpd.Session.
func (s *lmtp) Reset() { s.env, s.to = queue.Envelope{}, nil }
