package queue

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"switchyard/backend"
	"switchyard/internal/tlsconf"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// Server is a server that takes mail.
type Server struct {
	Address string // host:port
	LMTP    bool   // it speaks LMTP (RFC 2033)

	// Mode and TLS say how the connection is secured. A nil TLS means the
	// system's CAs. The server's name is the host of Address, unless TLS has
	// one.
	Mode tlsconf.Mode
	TLS  *tls.Config

	// Name and Password log in by SASL PLAIN, over TLS only. An empty name
	// means no login.
	Name, Password string
}

// String never shows the password.
func (s Server) String() string   { return s.Address }
func (s Server) GoString() string { return s.Address }

// deliverTo offers a message to servers, one after the other, until one answers
// for each recipient.
func (q *Queue) deliverTo(ctx context.Context, servers []Server, env Envelope, body backend.Body, recipients []Recipient) []outcome {
	if len(servers) == 0 {
		return all(recipients, outcome{verdict: retry, reply: "451 4.3.5 no server is configured for this destination"})
	}
	var last []outcome
	first := recipients[0].Attempts % len(servers)
	for i := range servers {
		server := servers[(first+i)%len(servers)]
		outcomes, answered := q.offer(ctx, server, env, body, recipients)
		if answered || ctx.Err() != nil {
			return outcomes
		}
		last = outcomes
	}
	return last
}

// offer delivers to one server. answered is false when the server could not be
// talked to and took nothing, so that another may be asked.
func (q *Queue) offer(ctx context.Context, server Server, env Envelope, body backend.Body, recipients []Recipient) ([]outcome, bool) {
	c, err := q.connect(ctx, server)
	if err != nil {
		return all(recipients, q.remoteFailure(ctx, server, err)), false
	}
	defer c.close()
	out := make([]outcome, len(recipients))
	todo := make([]int, len(recipients)) // places in recipients
	for i := range todo {
		todo[i] = i
	}
	for {
		some := pick(recipients, todo)
		outcomes := q.transaction(ctx, c, env, body, some)
		var later []int
		progress := false
		for i, place := range todo {
			out[place] = outcomes[i]
			if tooMany(outcomes[i]) {
				later = append(later, place)
			} else {
				progress = true
			}
		}
		if len(later) == 0 || !progress || c.broken {
			break
		}
		todo = later // RFC 5321 §4.5.3.1.10: the rest in further transactions
	}
	if !c.broken {
		c.Quit()
	}
	return out, !c.broken || c.answered
}

func pick(recipients []Recipient, places []int) []Recipient {
	out := make([]Recipient, len(places))
	for i, place := range places {
		out[i] = recipients[place]
	}
	return out
}

// tooMany reports whether a recipient was only one too many for one
// transaction.
func tooMany(o outcome) bool {
	return o.verdict == retry && strings.HasPrefix(o.reply, "452 4.5.3")
}

// client is a connection to a server.
type client struct {
	*smtp.Client
	server   Server
	close    func()
	broken   bool // nothing more can be said
	answered bool // the server decided about some recipient
}

// connect dials, secures the connection and logs in. The connection is closed
// when ctx ends.
func (q *Queue) connect(ctx context.Context, server Server) (*client, error) {
	host, _, err := net.SplitHostPort(server.Address)
	if err != nil {
		return nil, err
	}
	config := server.TLS
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName = host
	}
	nc, err := q.dial(ctx, server, config)
	if err != nil {
		return nil, err
	}
	release := context.AfterFunc(ctx, func() { nc.Close() })
	c := &client{server: server, close: func() { release(); nc.Close() }}
	if err := q.begin(c, nc, config); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (q *Queue) dial(ctx context.Context, server Server, config *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, q.o.DialTime)
	defer cancel()
	raw, err := q.o.Dial(ctx, "tcp", server.Address)
	if err != nil {
		return nil, err
	}
	nc := net.Conn(&unhurried{raw, q.o.CommandTime})
	if server.Mode != tlsconf.Implicit {
		return nc, nil
	}
	tc := tls.Client(nc, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return tc, nil
}

// begin greets the server.
func (q *Queue) begin(c *client, nc net.Conn, config *tls.Config) (err error) {
	switch {
	case c.server.LMTP && c.server.Mode == tlsconf.StartTLS:
		return errors.New("STARTTLS is not supported with LMTP: use implicit TLS")
	case c.server.LMTP:
		c.Client = smtp.NewClientLMTP(nc)
	case c.server.Mode == tlsconf.StartTLS:
		nc.SetDeadline(time.Now().Add(q.o.DialTime))
		if c.Client, err = smtp.NewClientStartTLS(nc, config); err != nil {
			return err
		}
	default:
		c.Client = smtp.NewClient(nc)
	}
	c.CommandTimeout, c.SubmissionTimeout = q.o.CommandTime, q.o.DataTime
	if err := c.Hello(q.o.Hostname); err != nil {
		return err
	}
	if c.server.Name == "" {
		return nil
	}
	if c.server.Mode == tlsconf.Off {
		return errors.New("no login without TLS")
	}
	return c.Auth(sasl.NewPlainClient("", c.server.Name, c.server.Password))
}

// unhurried gives each write a deadline of its own: go-smtp has none while it
// sends a message.
type unhurried struct {
	net.Conn
	each time.Duration
}

func (u *unhurried) Write(p []byte) (int, error) {
	if err := u.Conn.SetWriteDeadline(time.Now().Add(u.each)); err != nil {
		return 0, err
	}
	return u.Conn.Write(p)
}

// transaction offers a message to the server for some recipients.
func (q *Queue) transaction(ctx context.Context, c *client, env Envelope, body backend.Body, recipients []Recipient) []outcome {
	if ok, _ := c.Extension("SMTPUTF8"); env.UTF8 && !ok {
		c.answered = true // RFC 6531 §3.5: it must not go there
		return all(recipients, outcome{verdict: refused, reply: "550 5.6.7 the next server does not take SMTPUTF8", server: c.server.Address})
	}
	options := &smtp.MailOptions{Size: body.Size(), UTF8: env.UTF8, Return: smtp.DSNReturn(env.Return), EnvelopeID: env.ID}
	if err := c.Mail(env.From, options); err != nil {
		return all(recipients, q.verdictOf(ctx, c, err))
	}
	out := make([]outcome, len(recipients))
	var taken []int
	for i, r := range recipients {
		if err := c.Rcpt(r.Address, rcptOptions(r)); err != nil {
			out[i] = q.verdictOf(ctx, c, err)
			if c.broken {
				return all(recipients, out[i])
			}
			continue
		}
		taken = append(taken, i)
	}
	if len(taken) == 0 {
		if err := c.Reset(); err != nil {
			c.broken = true
		}
		return out
	}
	tells, _ := c.Extension("DSN")
	for i, o := range q.data(ctx, c, body, pick(recipients, taken)) {
		o.silent = !tells
		out[taken[i]] = o
	}
	return out
}

func rcptOptions(r Recipient) *smtp.RcptOptions {
	o := &smtp.RcptOptions{}
	for _, n := range r.Notify {
		o.Notify = append(o.Notify, smtp.DSNNotify(n))
	}
	kind, address, _ := strings.Cut(r.Original, ";")
	switch kind := smtp.DSNAddressType(strings.ToUpper(kind)); kind {
	case smtp.DSNAddressTypeRFC822, smtp.DSNAddressTypeUTF8:
		o.OriginalRecipientType, o.OriginalRecipient = kind, address
	}
	return o
}

// data sends the message for the recipients that the server took.
func (q *Queue) data(ctx context.Context, c *client, body backend.Body, recipients []Recipient) []outcome {
	w, err := c.Data()
	if err != nil {
		return all(recipients, q.verdictOf(ctx, c, err))
	}
	if _, err := io.Copy(w, io.NewSectionReader(body, 0, body.Size())); err != nil {
		c.broken = true // half a message: only a lost connection says so
		return all(recipients, q.remoteFailure(ctx, c.server, err))
	}
	if !c.server.LMTP {
		response, err := w.CloseWithResponse()
		if err != nil {
			return all(recipients, q.verdictOf(ctx, c, err))
		}
		c.answered = true
		return all(recipients, outcome{verdict: delivered, reply: "250 " + OneLine(response.StatusText), server: c.server.Address})
	}
	responses, err := w.CloseWithLMTPResponse()
	var refusals smtp.LMTPDataError
	errors.As(err, &refusals)
	out := make([]outcome, len(recipients))
	for i, r := range recipients {
		switch response, ok := responses[r.Address]; {
		case ok:
			c.answered = true
			out[i] = outcome{verdict: delivered, reply: "250 " + OneLine(response.StatusText), server: c.server.Address}
		case refusals[r.Address] != nil:
			out[i] = q.verdictOf(ctx, c, refusals[r.Address])
		default:
			c.broken = true
			out[i] = q.remoteFailure(ctx, c.server, err)
		}
	}
	return out
}

// verdictOf reads a server's refusal: 5xx is final, all else is not. A
// connection that failed is no answer.
func (q *Queue) verdictOf(ctx context.Context, c *client, err error) outcome {
	var reply *smtp.SMTPError
	if !errors.As(err, &reply) {
		c.broken = true
		return q.remoteFailure(ctx, c.server, err)
	}
	o := outcome{verdict: retry, server: c.server.Address, reply: formatReply(reply)}
	if reply.Code == 421 {
		c.broken = true // RFC 5321 §3.8: it is closing the connection
		return o
	}
	c.answered = true
	switch {
	case needsLogin(reply.Code):
	case reply.Code/100 == 5:
		o.verdict = refused
	}
	return o
}

// needsLogin tells the refusals that are about our login (RFC 4954 §6). They
// are the operator's to mend, and no reason to send anybody's mail back.
func needsLogin(code int) bool {
	switch code {
	case 530, 534, 535, 538:
		return true
	}
	return false
}

func formatReply(e *smtp.SMTPError) string {
	code := e.EnhancedCode
	if code == smtp.EnhancedCodeNotSet || code == smtp.NoEnhancedCode {
		code = smtp.EnhancedCode{e.Code / 100, 0, 0}
	}
	return fmt.Sprintf("%d %d.%d.%d %s", e.Code, code[0], code[1], code[2], OneLine(e.Message))
}

// remoteFailure is the outcome of a server that cannot be talked to.
func (q *Queue) remoteFailure(ctx context.Context, server Server, err error) outcome {
	if ctx.Err() != nil {
		return outcome{verdict: cut}
	}
	text := "no answer"
	if err != nil {
		text = err.Error()
	}
	return outcome{verdict: retry, reply: "451 4.4.1 " + OneLine(text), server: server.Address}
}
