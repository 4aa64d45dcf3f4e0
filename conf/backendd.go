package conf

import (
	"fmt"
)

// Backendd configures a backend's node.
type Backendd struct {
	Backend       string      `toml:"backend"` // which backend this node belongs to
	Node          string      `toml:"node"`    // its own name; the backend's when empty
	Hostname      string      `toml:"hostname"`
	Admin         string      `toml:"admin"`
	LogLevel      string      `toml:"log_level"` // info (when empty), debug, warn or error
	Data          string      `toml:"data"`      // the store's directory
	Certificate   Certificate `toml:"certificate"`
	ProxyNetworks []string    `toml:"proxy_networks"` // where proxies may connect from
	Proxies       []string    `toml:"proxies"`        // the proxies' inbound SMTP listeners, for mail to other homes
	ProxiesTLS    string      `toml:"proxies_tls"`    // starttls (when empty) or off
	Relay         string      `toml:"relay"`          // smart host for other domains; none: such mail is refused
	RelayTLS      string      `toml:"relay_tls"`
	Listeners     []Listener  `toml:"listen"`
	MaxMessage    int64       `toml:"max_message"` // bytes; 50 MiB when zero
}

func (k *checker) backendd() {
	b := k.c.Backendd
	if k.need("backendd.backend", b.Backend != "", "the name of the backend that this node belongs to") && len(k.c.Backends) > 0 && !k.hasBackend(b.Backend) {
		k.bad("backendd.backend", "no [[backend]] is named %q%s", b.Backend, k.didYouMean(b.Backend, k.backendNames()))
	}
	k.need("backendd.data", b.Data != "", "the directory of the mail store")
	k.needSecret()
	k.admin("backendd.admin", b.Admin)
	k.logLevel("backendd.log_level", b.LogLevel)
	k.certificate("backendd.certificate", b.Certificate)
	k.networks("backendd.proxy_networks", b.ProxyNetworks)
	k.listeners("backendd.listen", b.Listeners, b.Certificate, []string{"imap", "pop3", "submission", "lmtp", "managesieve"})
	for i, l := range b.Listeners {
		if l.Protocol == "lmtp" && (l.TLS == "off" || b.Certificate.Empty()) {
			k.bad(fmt.Sprintf("backendd.listen[%d].tls", i), "lmtp needs TLS: a proxy's secret is never taken in clear; set a certificate and tls = \"implicit\"")
		}
		if len(l.TrustedNetworks) > 0 {
			k.bad(fmt.Sprintf("backendd.listen[%d].trusted_networks", i), "is for proxies' listeners; whom a backend believes is in backendd.proxy_networks")
		}
		if l.ProxyProtocol {
			k.bad(fmt.Sprintf("backendd.listen[%d].proxy_protocol", i), "backends take no PROXY header: proxies pass the client's address on by ID and XCLIENT; remove the key")
		}
	}
	for i, a := range b.Proxies {
		k.dialAddress(fmt.Sprintf("backendd.proxies[%d]", i), a)
	}
	k.oneOf("backendd.proxies_tls", b.ProxiesTLS, "starttls", "off")
	k.oneOf("backendd.relay_tls", b.RelayTLS, "starttls", "implicit", "off")
	if b.Relay != "" {
		k.dialAddress("backendd.relay", b.Relay)
	}
}
