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
// owner's to close.
type Back struct {
	Conn    *wire.Conn
	Backend string
	Node    string
	Service Service

	endpoint     Endpoint
	name, secret string
	release      func() bool // ends the connection's bond with Dial's context
}

// Login returns what the proxy logs in with. On a connection in clear to another
// machine the secret, which opens every mailbox, is withheld: it is empty, and
// the login fails.
func (b *Back) Login() (name, secret string) {
	peer := b.Conn.RemoteAddr().Addr()
	if b.Conn.TLS() == nil && peer.IsValid() && !peer.IsLoopback() {
		return b.name, ""
	}
	return b.name, b.secret
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
// on each read and write has the deadline that Conn.SetIdle says. Detach does
// not need it.
func (b *Back) Settle() { b.Conn.SetDeadline(time.Time{}) }

// Detach gives up the connection for splicing; see wire.Conn.Detach. It fails
// when the context that the connection was dialled with has ended.
func (b *Back) Detach() (net.Conn, []byte, error) {
	if !b.release() {
		return nil, nil, errInterrupted
	}
	return b.Conn.Detach()
}

var errInterrupted = errors.New("the connection is interrupted")

// Close closes the connection at once.
func (b *Back) Close() error {
	b.release()
	return b.Conn.Close()
}
