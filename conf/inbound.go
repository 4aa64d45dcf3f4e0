package conf

import (
	"net"
	"strconv"
	"time"
)

// SMTP bounds what mail servers of the world bring to a proxy's smtp listeners.
type SMTP struct {
	Pause       Duration `toml:"pause"`        // before the greeting: who speaks earlier is refused; none when zero
	MaxMessages int      `toml:"max_messages"` // on one connection; any number when zero
	MaxDomains  int      `toml:"max_domains"`  // of recipients, on one connection; any number when zero

	MaxRecipients int `toml:"max_recipients"` // of a message, by LMTP too; 100 when zero
}

// LMTP says who may bring mail to a proxy's lmtp listeners: the operator's own
// filters and mail servers.
type LMTP struct {
	Networks []string `toml:"networks"` // from here without a login
	Name     string   `toml:"name"`     // a login for everybody else
	Secret   Secret   `toml:"secret"`
}

// maxPause is the longest that a mail server is kept waiting: they are patient
// (RFC 5321 §4.5.3.2.1), but each that waits holds a connection.
const maxPause = 30 * time.Second

// leastRecipients is what everybody has to take (RFC 5321 §4.5.3.1.8).
const leastRecipients = 100

func (k *checker) inbound(smtp SMTP, lmtp *LMTP) {
	switch d, all := time.Duration(smtp.Pause), k.c.Proxyd.PreLogin.Or(time.Minute); {
	case d > maxPause:
		k.bad("proxyd.smtp.pause", "%v is longer than %v: every mail server that waits holds a connection", d, maxPause)
	case d >= all:
		k.bad("proxyd.smtp.pause", "%v leaves nothing of the %v that proxyd.pre_login gives a client; make one shorter or the other longer", d, all)
	}
	k.notNegative("proxyd.smtp.max_messages", smtp.MaxMessages)
	k.notNegative("proxyd.smtp.max_domains", smtp.MaxDomains)
	if n := smtp.MaxRecipients; n != 0 && n < leastRecipients {
		k.bad("proxyd.smtp.max_recipients", "%d is less than %d, which every mail server may send at once (RFC 5321 section 4.5.3.1.8)", n, leastRecipients)
	}
	k.networks("proxyd.lmtp.networks", lmtp.Networks)
	k.secret("proxyd.lmtp.secret", &lmtp.Secret)
	switch {
	case lmtp.Secret.IsSet() && lmtp.Name == "":
		k.bad("proxyd.lmtp.name", "missing beside secret; set the name that goes with it")
	case lmtp.Name != "" && !lmtp.Secret.IsSet():
		k.bad("proxyd.lmtp.secret", "missing beside name; write { file = \"…\" } or { env = \"…\" }")
	}
}

// inboundListener checks a proxy's listener for mail without users.
func (k *checker) inboundListener(key string, l Listener, from LMTP) {
	if len(k.c.Cluster.Domains) == 0 {
		k.bad(key+".protocol", "%s needs cluster.domains: without local domains every recipient would be refused", l.Protocol)
	}
	switch {
	case l.Protocol != "lmtp" || len(from.Networks) > 0:
	case !from.Secret.IsSet():
		k.bad(key+".protocol", "lmtp would take no mail from anybody; set proxyd.lmtp.networks to where your filters and mail servers are, or proxyd.lmtp.name and secret")
	case l.TLS == "off" && !l.CleartextLogin:
		k.bad(key+".tls", "off leaves nobody a way to log in: use starttls or implicit, or set proxyd.lmtp.networks, or cleartext_login = true on a network that you trust")
	}
}

// lmtpPort keeps LMTP off SMTP's port (RFC 2033 §5): a mail server that found it
// there would take it for SMTP.
func (k *checker) lmtpPort(key string, l Listener) {
	host, port, err := net.SplitHostPort(l.Address)
	if n, portErr := strconv.Atoi(port); l.Protocol == "lmtp" && err == nil && portErr == nil && n == 25 {
		k.bad(key+".address", "port 25 is SMTP's and must not have LMTP (RFC 2033 section 5); use another, such as %s", net.JoinHostPort(host, "24"))
	}
}
