package tcpauth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"switchyard/internal/wire"
	"switchyard/lookup"
	"switchyard/lookup/internal/authent"
	"switchyard/lookup/internal/netwin"
)

// ClientOptions for NewClient. The zero value works.
type ClientOptions struct {
	// Secret is shown to servers on each new connection. It crosses the
	// network in clear unless TLS is set.
	Secret string

	// TLS makes every connection begin with a handshake; the server's name is
	// filled in from its address when it is empty. Nil means clear text.
	TLS *tls.Config

	// Connections bounds the connections to old servers, all together, each
	// with one question under way, since their answers carry no tags. Servers
	// of our own get two connections, for any number of questions. Zero means
	// 8.
	Connections int

	// MaxWaiting bounds the questions that wait for a connection to an old
	// server, and those under way on a connection to a new one; more are
	// answered with ErrUnavailable at once. Zero means 4,096.
	MaxWaiting int

	// Timeout is how long a question may take altogether, waiting,
	// further servers and a second attempt included. Zero means 5 seconds.
	Timeout time.Duration

	// Attempt is how long one server may take to be connected to and to
	// answer. Zero means half of Timeout, so that a second server gets its
	// chance when the first one hangs.
	Attempt time.Duration

	// Idle is how long an unused connection is kept; less than the servers
	// keep theirs. Zero means 5 minutes.
	Idle time.Duration

	// MaxBackoff bounds how long a server that failed is left alone. Zero
	// means 2 seconds.
	MaxBackoff time.Duration

	Logger *zap.Logger // nil: none
}

func (o ClientOptions) withDefaults() ClientOptions {
	if o.Connections <= 0 {
		o.Connections = 8
	}
	if o.MaxWaiting <= 0 {
		o.MaxWaiting = 4096
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Attempt == 0 {
		o.Attempt = o.Timeout / 2
	}
	if o.Idle == 0 {
		o.Idle = 5 * time.Minute
	}
	if o.MaxBackoff == 0 {
		o.MaxBackoff = 2 * time.Second
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

// Client asks tcpauth servers. It implements lookup.Directory and
// lookup.KeyHolder, and it is safe for concurrent use.
//
// The servers are asked in their order: the next one when one cannot be
// reached, does not answer or says that it cannot answer now. A question is
// sent twice at most, and a change once.
type Client struct {
	opts    ClientOptions
	servers []*upstream
	slots   chan struct{} // one for each connection without tags that may be in use
	waiting atomic.Int64
	closed  atomic.Bool
}

var (
	errClosed  = errors.New("client is closed")
	errWaiting = errors.New("too many questions wait for a connection")
	errAllAway = errors.New("no server can be asked now")

	// errLacks: no server has the extension that a question needs.
	errLacks = errors.New("the servers do not know the extension")
)

// NewClient makes a client of servers, host:port each, in the order of
// preference. It connects when it is first asked.
func NewClient(servers []string, opts ClientOptions) (*Client, error) {
	opts = opts.withDefaults()
	if len(servers) == 0 {
		return nil, errors.New("tcpauth: no server")
	}
	if err := checkSecret(opts.Secret); err != nil {
		return nil, err
	}
	c := &Client{opts: opts, slots: make(chan struct{}, opts.Connections)}
	for _, address := range servers {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("tcpauth: server %q: %w", address, err)
		}
		u := &upstream{address: address, opts: &c.opts}
		if opts.TLS != nil {
			u.tls = opts.TLS.Clone()
			if u.tls.ServerName == "" {
				u.tls.ServerName = host
			}
		}
		c.servers = append(c.servers, u)
	}
	return c, nil
}

// Close closes the connections that are not in use; the others close when
// their question is answered. Later questions are answered with
// ErrUnavailable.
func (c *Client) Close() error {
	c.closed.Store(true)
	for _, u := range c.servers {
		u.closeIdle(true)
	}
	return nil
}

// Lookup implements lookup.Directory. A name that no account can have is
// absent without a question.
func (c *Client) Lookup(ctx context.Context, name string) (lookup.Account, error) {
	if clean, err := lookup.CleanName(name, ""); err != nil || clean != name {
		return lookup.Account{}, lookup.ErrAbsent
	}
	return c.account(ctx, authent.Request{Verb: authent.Lookup, Name: name}, lookup.ErrAbsent)
}

// Check implements lookup.Directory. An empty password and (NULL) are rejected
// without a question. A password that the server's grammar cannot carry is
// rejected too: nobody could have set it there.
func (c *Client) Check(ctx context.Context, cred lookup.Credentials) (lookup.Account, error) {
	if clean, err := lookup.CleanName(cred.Name, ""); err != nil || clean != cred.Name {
		return lookup.Account{}, lookup.ErrRejected
	}
	if cred.Password == "" || cred.Password == netwin.NoPassword || len(cred.Password) > maxPassword {
		return lookup.Account{}, lookup.ErrRejected
	}
	r := authent.Request{Verb: authent.Check, Name: cred.Name, Password: &cred.Password, Client: cred.Client}
	account, err := c.account(ctx, r, lookup.ErrRejected)
	var refused *RefusedError
	if errors.As(err, &refused) {
		return lookup.Account{}, lookup.ErrRejected
	}
	return account, err
}

// maxPassword is the longest password in bytes that is asked about; encoded it
// fits a line many times.
const maxPassword = 4096

// account asks a question whose -ERR means no.
func (c *Client) account(ctx context.Context, r authent.Request, no error) (lookup.Account, error) {
	var account lookup.Account
	err := c.ask(ctx, question{request: r, again: true, most: 1, read: func(replies []authent.Reply) error {
		reply := replies[0]
		if reply.Kind == authent.Err {
			return answered{no}
		}
		var err error
		account, err = authent.ParseAccount(reply.Text, r.Name)
		return err
	}})
	return account, err
}

// question is a request and how its answer is read.
type question struct {
	request authent.Request
	again   bool // may be sent a second time
	most    int  // lines that the answer may have

	// needs says whether a server can be asked at all. Nil: any can.
	needs func(extensions) bool

	// read reads the answer, whose last line is OK or Err and the others
	// Data. Its error is answered when it is a valid one; after any other the
	// connection is closed.
	read func(replies []authent.Reply) error
}

// answered is a valid answer that is an error to the caller.
type answered struct{ error }

// dead is a -DEAD reply.
type dead struct{ reason string }

func (d dead) Error() string { return fmt.Sprintf("server says %s %q", authent.Dead, d.reason) }

// can reports whether a server with these extensions can be asked.
func (q question) can(e extensions) bool { return q.needs == nil || q.needs(e) }

// ask puts a question to the servers. Errors: what answered holds,
// RefusedError for what cannot be carried, errLacks, ErrUnavailable.
func (c *Client) ask(ctx context.Context, q question) error {
	step := "ask tcpauth: " + string(q.request.Verb)
	if c.closed.Load() {
		return lookup.Unavailable(step, errClosed)
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return lookup.Unavailable(step, err)
	}
	sends := 1
	if q.again {
		sends = 2
	}
	last := errAllAway
	lack := 0
	for i, u := range c.servers {
		if wait := u.away(); wait != nil {
			last = wait
			if u.lacks(q) {
				lack++
			}
			continue
		}
		err := c.askServer(ctx, u, q, c.attempt(ctx, i), &sends)
		var final answered
		var refused *RefusedError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &final):
			return final.error
		case errors.As(err, &refused):
			return err
		}
		if u.lacks(q) {
			lack++
		}
		if errors.Is(err, errLacks) {
			continue
		}
		last = fmt.Errorf("%s: %w", u.address, err)
		if ctx.Err() != nil || sends == 0 || errors.Is(err, errWaiting) {
			break
		}
	}
	if lack == len(c.servers) {
		return errLacks
	}
	return lookup.Unavailable(step, last)
}

// attempt is how long the i-th server may take. A caller in a hurry still
// leaves half of its time to the next one.
func (c *Client) attempt(ctx context.Context, i int) time.Duration {
	limit := c.opts.Attempt
	if deadline, ok := ctx.Deadline(); ok && i < len(c.servers)-1 {
		limit = min(limit, time.Until(deadline)/2)
	}
	return limit
}

// askServer puts a question to one server: on a lane if the server knows tags,
// else on a connection of its own.
func (c *Client) askServer(ctx context.Context, u *upstream, q question, limit time.Duration, sends *int) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	which := otherLane
	if q.request.Verb == authent.Lookup || q.request.Verb == authent.XKeys {
		which = lookupLane
	}
	for {
		l, err := u.lane(ctx, which)
		if err != nil {
			return err
		}
		if l == nil {
			return c.askAlone(ctx, u, q, sends)
		}
		if !q.can(l.conn.ext) {
			return errLacks
		}
		line, err := q.request.Line(l.conn.ext.encoded)
		if err != nil {
			return err
		}
		if !q.again && l.conn.gone() {
			// A change that is sent to a server that was restarted would be
			// of unknown fate.
			l.fail(errGone)
			continue
		}
		replies, sent, err := l.ask(ctx, line, q.most)
		if sent {
			*sends--
		}
		var ended *errLane
		switch {
		case errors.As(err, &ended) && ctx.Err() == nil && (!sent || ended.again && *sends > 0):
			// The server was restarted, most likely.
			continue
		case err != nil:
			return err
		}
		u.succeeded()
		if err := read(q, replies); err != nil {
			if errors.Is(err, authent.ErrGarbage) {
				l.fail(err)
			}
			return err
		}
		return nil
	}
}

var errGone = errors.New("the server has closed the connection")

// read reads an answer.
func read(q question, replies []authent.Reply) error {
	if final := replies[len(replies)-1]; final.Kind == authent.Dead {
		return dead{final.Reason()}
	}
	return q.read(replies)
}

// acquire waits for a connection's turn, to a server without tags.
func (c *Client) acquire(ctx context.Context) error {
	select {
	case c.slots <- struct{}{}:
		return nil
	default:
	}
	if c.waiting.Add(1) > int64(c.opts.MaxWaiting) {
		c.waiting.Add(-1)
		return errWaiting
	}
	defer c.waiting.Add(-1)
	select {
	case c.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for a connection: %w", ctx.Err())
	}
}

// askAlone puts a question to a server without tags: on a connection that is
// there, and when that turns out to be dead, on a fresh one.
func (c *Client) askAlone(ctx context.Context, u *upstream, q question, sends *int) error {
	if err := c.acquire(ctx); err != nil {
		return err
	}
	defer func() { <-c.slots }()
	start := time.Now()
	for {
		conn, err := u.get(ctx)
		if err != nil {
			return u.failed(ctx, start, err)
		}
		if !q.can(conn.ext) {
			u.keep(conn)
			return errLacks
		}
		line, err := q.request.Line(conn.ext.encoded)
		if err != nil {
			u.put(conn)
			return err
		}
		*sends--
		replies, err := conn.exchange(ctx, line, q.most)
		if err == nil {
			err = read(q, replies)
		}
		var final answered
		var says dead
		if err == nil || errors.As(err, &final) || errors.As(err, &says) {
			u.succeeded()
			u.put(conn)
			return err
		}
		conn.close()
		if conn.used && ctx.Err() == nil && *sends > 0 && !wire.IsTimeout(err) && !errors.Is(err, authent.ErrGarbage) {
			// It lay idle and the server closed it meanwhile, most likely
			// since it was restarted; then the others are dead as well.
			u.closeIdle(false)
			continue
		}
		return u.failed(ctx, start, err)
	}
}
