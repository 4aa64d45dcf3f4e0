// Package tlsconf makes the TLS configurations of listeners and of connections
// to backends. The two are separate on purpose: what we accept from clients
// never decides what we demand from a backend.
//
// A listener's certificates are a Store's, which chooses by the name that the
// client asks for and takes renewed files over while it runs:
//
//	store, err := tlsconf.NewStore([]tlsconf.Pair{{CertFile: "mail.pem", KeyFile: "mail.key"}}, tlsconf.StoreOptions{})
//	config, err := store.Server(tlsconf.ServerOptions{ALPN: tlsconf.ALPN("imap")})
//	go store.Run(ctx)
package tlsconf

import (
	"fmt"
)

// Mode says when a listener or a connection to a backend uses TLS.
type Mode int

// The modes. Off never uses TLS, StartTLS begins in clear and upgrades,
// Implicit begins with the handshake.
const (
	Off Mode = iota
	StartTLS
	Implicit
)

// ParseMode reads a mode from a configuration.
func ParseMode(s string) (Mode, error) {
	for _, m := range []Mode{Off, StartTLS, Implicit} {
		if s == m.String() {
			return m, nil
		}
	}
	return Off, fmt.Errorf("TLS mode %q is none of off, starttls, implicit", s)
}

func (m Mode) String() string {
	switch m {
	case Off:
		return "off"
	case StartTLS:
		return "starttls"
	case Implicit:
		return "implicit"
	default:
		return fmt.Sprintf("Mode(%d)", int(m))
	}
}

// ALPN returns the names by which a protocol of ours goes in ALPN (RFC 7301):
// those of the registry for imap, pop3 and managesieve. Mail transfer has none
// there, so smtp, submission and lmtp get the two that mail servers send all the
// same. Nil for what is not known.
//
// A server with names refuses a client that offers names and none of these: a
// browser that was sent to a mail port (ALPACA). A client that offers none at
// all is served, since most mail clients do not.
func ALPN(protocol string) []string {
	switch protocol {
	case "imap", "pop3", "managesieve":
		return []string{protocol}
	case "smtp", "submission", "lmtp":
		return []string{"smtp", "esmtp"}
	default:
		return nil
	}
}
