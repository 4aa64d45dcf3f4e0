package conf

import (
	"fmt"
)

// Proxyd configures a proxy.
type Proxyd struct {
	Hostname    string      `toml:"hostname"` // in greetings; the machine's name when empty
	Admin       string      `toml:"admin"`    // address of the admin listener; none when empty
	Certificate Certificate `toml:"certificate"`
	Listeners   []Listener  `toml:"listen"`

	// Certificates are more, for clients that name their hosts (SNI).
	Certificates []Certificate `toml:"certificates"`
	Limits       Limits        `toml:"limits"`
	SASL         SASL          `toml:"sasl"`
	SMTP         SMTP          `toml:"smtp"`
	LMTP         LMTP          `toml:"lmtp"`

	LogLevel     string   `toml:"log_level"`     // info (when empty), debug, warn or error
	Linger       Duration `toml:"linger"`        // how long the old process keeps its sessions when a new one has taken over; until they end when zero
	StartTimeout Duration `toml:"start_timeout"` // how long the new process may take to start; 1m when zero

	PreLogin   Duration `toml:"pre_login"` // the whole time before login; 1m when zero
	Connect    Duration `toml:"connect"`   // for connecting to a backend, TLS included; 5s when zero
	MaxMessage int64    `toml:"max_message"`
	SpoolDir   string   `toml:"spool_dir"`
	AuthHTTP   AuthHTTP `toml:"auth_http"` // answers nginx from the proxy's cache
}

func (k *checker) proxyd() {
	p := k.c.Proxyd
	k.need("backend", len(k.c.Backends) > 0, "at least one [[backend]]: a proxy needs somewhere to go")
	k.needSecret()
	k.admin("proxyd.admin", p.Admin)
	k.logLevel("proxyd.log_level", p.LogLevel)
	k.certificate("proxyd.certificate", p.Certificate)
	k.listeners("proxyd.listen", p.Listeners, p.Certificate, []string{"imap", "pop3", "submission", "smtp", "lmtp", "managesieve"})
	for i, l := range p.Listeners {
		if l.Protocol == "smtp" || l.Protocol == "lmtp" {
			k.inboundListener(fmt.Sprintf("proxyd.listen[%d]", i), l, p.LMTP)
		}
	}
	for i, c := range p.Certificates {
		k.certificate(fmt.Sprintf("proxyd.certificates[%d]", i), c)
	}
	k.limits("proxyd.limits", p.Limits)
	k.sasl("proxyd.sasl", &k.c.Proxyd.SASL, p.Listeners)
	k.inbound(p.SMTP, &k.c.Proxyd.LMTP)
	k.dir("proxyd.spool_dir", p.SpoolDir)
	k.authHTTP("proxyd.auth_http", &k.c.Proxyd.AuthHTTP)
}
