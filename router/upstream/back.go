package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"switchyard/internal/tlsconf"
	"switchyard/internal/wire"
)

// Back is the store's side of a session: a connection to a node. It is its
// owner's to close. It belongs to one goroutine at a time.
type Back struct {
	Conn    *wire.Conn
	Backend string
	Node    string
	Service Service

	// Peer reports whether another node is left for the login (Want.Retry).
	Peer bool

	endpoint     Endpoint
	name, secret string
	login        Login
	release      func() bool // ends the connection's bond with Dial's context

	set  *Set
	pick *pick // on which it has the turn; nil behind the login
	want Want

	started time.Time // when the node was chosen
}

// Served says that the node has answered the login as a node should, with yes or
// with no.
func (b *Back) Served() {
	if b.pick != nil {
		b.set.succeed(b.pick.e, talking)
		b.pick.e.took.add(time.Since(b.started))
	}
	b.done()
}

// Failed says that the login failed for a reason that may be the node's: the
// connection was lost, the answer was rubbish or a "not now", or it never came.
// It closes the connection.
func (b *Back) Failed(err error) {
	if b.pick != nil {
		b.set.fail(b.pick.e, failure{talking, err, b.want.Account, b.want.Client})
	}
	b.Close()
}

// done gives the turn on the node back.
func (b *Back) done() {
	if b.pick != nil {
		b.pick.leave()
		b.pick = nil
	}
}

// Login returns what the proxy logs in with as itself. On a connection in clear to
// another machine the secret, which opens every mailbox, is withheld: it is empty,
// and the login fails. It is empty too where the proxy has no login of its own;
// see Credentials for users'.
func (b *Back) Login() (name, secret string) {
	if b.exposed() || b.login.Forward || b.login.User != "" {
		return b.name, ""
	}
	return b.name, b.secretOf()
}

// WantsStartTLS reports whether the connection must be upgraded before
// anything of worth is said on it.
func (b *Back) WantsStartTLS() bool {
	return b.endpoint.TLS == tlsconf.StartTLS && b.Conn.TLS() == nil
}

// StartTLS performs the handshake behind the node's answer to STARTTLS. Bytes
// behind that answer end the connection (wire.ErrBytesBehindStartTLS). What the
// node said before it, capabilities above all, counts for nothing afterwards.
func (b *Back) StartTLS(ctx context.Context) error {
	return b.Conn.ClientTLS(ctx, b.config())
}

func (b *Back) config() *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if b.endpoint.Config != nil {
		config = b.endpoint.Config.Clone()
	}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(b.endpoint.Address)
	}
	return config
}

// Settle ends the time allowed for the dialogue before and at login: from here
// on each read and write has the deadline that Conn.SetIdle says. It is Served
// too. Detach does not need it.
func (b *Back) Settle() {
	b.Served()
	b.Conn.SetDeadline(time.Time{})
}

// Detach gives up the connection for splicing; see wire.Conn.Detach. It fails
// when the context that the connection was dialled with has ended. It is Served
// too.
func (b *Back) Detach() (net.Conn, []byte, error) {
	b.Served()
	if !b.release() {
		return nil, nil, errInterrupted
	}
	return b.Conn.Detach()
}

var errInterrupted = errors.New("the connection is interrupted")

// Close closes the connection at once.
func (b *Back) Close() error {
	b.done()
	b.release()
	return b.Conn.Close()
}
