package smtp

import (
	"context"
	"crypto/subtle"
	"net/netip"
	"slices"

	"switchyard/internal/smtpd"
)

// Deliverers are who may bring mail by LMTP: filters and other mail servers of the
// operator's own. The zero value is nobody.
type Deliverers struct {
	// Networks are trusted as they are: whoever speaks from there needs no login.
	// A PROXY header's address counts, if the listener believes it.
	Networks []netip.Prefix

	// Name and Secret are a login (SASL PLAIN or LOGIN) for everybody else. An
	// empty secret means that there is none. It takes TLS, unless the listener
	// allows logins in clear.
	Name, Secret string
}

// NewLMTP makes the protocol of LMTP at the proxy (RFC 2033): the same routing as
// inbound mail, and after the message an answer for each recipient, its own
// backend's. It takes mail from Options.Deliverers only. It refuses what
// resolve.New refuses.
func NewLMTP(o Options) (*Inbound, error) {
	p, err := NewInbound(o)
	if err == nil {
		p.lmtp = true
	}
	return p, err
}

var replyStranger = smtpd.NewReply(550, "5.7.1", "no mail is taken from this address")

// serveLMTP serves a deliverer, or a stranger.
func (p *Inbound) serveLMTP(ctx context.Context, f *inbound, o smtpd.Options) error {
	o.LMTP = true
	d := &lmtp{inbound: f, may: slices.ContainsFunc(p.o.Deliverers.Networks, func(n netip.Prefix) bool { return n.Contains(f.s.Client.Addr().Unmap()) })}
	if d.may {
		f.s.Admit()
	}
	o.RequireAuth = !d.may && p.o.Deliverers.Secret != ""
	return ended(smtpd.Serve(ctx, f.s.Conn, o, func(c *smtpd.Conn) smtpd.Session {
		f.conn = c
		if o.RequireAuth {
			return lmtpLogin{d}
		}
		return d
	}))
}

// lmtp is a session with a deliverer.
type lmtp struct {
	*inbound
	may bool // it is one
}

// Mail implements smtpd.Session.
func (d *lmtp) Mail(ctx context.Context, from smtpd.Path, p smtpd.MailParams) error {
	if !d.may {
		return replyStranger
	}
	return d.inbound.Mail(ctx, from, p)
}

// lmtpLogin is a session in which a deliverer has to log in.
type lmtpLogin struct{ *lmtp }

// Auth implements smtpd.Authenticator.
func (d lmtpLogin) Auth(_ context.Context, c smtpd.Credentials) error {
	o := &d.p.o.Deliverers
	name := subtle.ConstantTimeCompare([]byte(c.Username), []byte(o.Name))
	secret := subtle.ConstantTimeCompare([]byte(c.Password), []byte(o.Secret))
	if name&secret == 0 || c.Authzid != "" && c.Authzid != c.Username {
		return replyRejected
	}
	d.may = true
	d.s.Admit()
	return nil
}
