package conf

import (
	"crypto/tls"
	"fmt"
	"strings"
)

// Certificate is a certificate chain with its key, both PEM.
type Certificate struct {
	CertFile string `toml:"cert_file"`
	KeyFile  string `toml:"key_file"`
}

// Empty reports whether no certificate is configured.
func (c Certificate) Empty() bool { return c.CertFile == "" && c.KeyFile == "" }

// Listener is one address that a proxy or a backend serves.
type Listener struct {
	Protocol           string `toml:"protocol"`
	Address            string `toml:"address"`
	TLS                string `toml:"tls"`                 // starttls (when empty), implicit or off
	TLSMin             string `toml:"tls_min"`             // the oldest version of TLS: 1.2 (when empty) or 1.3
	CleartextLogin     bool   `toml:"cleartext_login"`     // let users log in without TLS
	MaxSessions        int    `toml:"max_sessions"`        // 20,000 when zero
	ClientCertificates string `toml:"client_certificates"` // ask clients for certificates: optional or required; not asked when empty
	ClientCAFile       string `toml:"client_ca_file"`      // … signed by one of these CAs

	ProxyProtocol bool     `toml:"proxy_protocol"` // every connection must begin with a PROXY header
	ProxyNetworks []string `toml:"proxy_networks"` // … and come from one of these networks

	TrustedNetworks []string `toml:"trusted_networks"` // a proxy's: of other proxies and of backends, which say themselves who the client is
}

func (k *checker) listeners(key string, ls []Listener, cert Certificate, protocols []string) {
	k.need(key, len(ls) > 0, "at least one listener")
	seen := make(map[string]int)
	for i, l := range ls {
		key := fmt.Sprintf("%s[%d]", key, i)
		if l.Protocol == "" {
			k.bad(key+".protocol", "missing; one of %s", strings.Join(protocols, ", "))
		} else {
			k.oneOf(key+".protocol", l.Protocol, protocols...)
		}
		if k.need(key+".address", l.Address != "", "the host:port to listen on") && k.listenAddress(key+".address", l.Address) {
			if j, dup := seen[l.Address]; dup && !strings.HasSuffix(l.Address, ":0") {
				k.bad(key+".address", "%s is taken by listener %d already", l.Address, j)
			}
			seen[l.Address] = i
		}
		if k.oneOf(key+".tls", l.TLS, "starttls", "implicit", "off") && l.TLS != "off" && cert.Empty() {
			k.bad(key+".tls", "TLS needs a certificate: set %s.certificate, or tls = \"off\" here", strings.SplitN(key, ".", 2)[0])
		}
		if k.oneOf(key+".tls_min", l.TLSMin, "1.2", "1.3") && l.TLSMin != "" && l.TLS == "off" {
			k.bad(key+".tls_min", "has no meaning with tls = \"off\"; remove one of them")
		}
		k.lmtpPort(key, l)
		k.clientCertificates(key, l)
		k.networks(key+".proxy_networks", l.ProxyNetworks)
		k.networks(key+".trusted_networks", l.TrustedNetworks)
		if l.ProxyProtocol && len(l.ProxyNetworks) == 0 {
			k.bad(key+".proxy_protocol", "needs proxy_networks: a PROXY header is believed only from the load balancers' own networks")
		}
		if !l.ProxyProtocol && len(l.ProxyNetworks) > 0 {
			k.bad(key+".proxy_networks", "has no meaning without proxy_protocol = true")
		}
		if l.MaxSessions < 0 {
			k.bad(key+".max_sessions", "%d is negative", l.MaxSessions)
		}
	}
}

func (k *checker) clientCertificates(key string, l Listener) {
	switch {
	case l.ClientCertificates == "" && l.ClientCAFile == "":
		return
	case l.ClientCertificates != "" && !k.oneOf(key+".client_certificates", l.ClientCertificates, "optional", "required"):
		return
	case l.ClientCertificates == "":
		k.bad(key+".client_ca_file", `has no meaning without client_certificates = "optional" or "required"`)
	case l.ClientCAFile == "":
		k.bad(key+".client_certificates", "needs client_ca_file: whose certificates are believed")
	case l.TLS == "off" || l.Protocol == "smtp":
		k.bad(key+".client_certificates", "only listeners with TLS for users can ask for certificates")
	}
	k.file(key+".client_ca_file", l.ClientCAFile)
}

func (k *checker) certificate(key string, c Certificate) {
	if c.Empty() {
		return
	}
	if c.CertFile == "" || c.KeyFile == "" {
		k.bad(key, "needs both cert_file and key_file")
		return
	}
	if !k.file(key+".cert_file", c.CertFile) || !k.file(key+".key_file", c.KeyFile) {
		return
	}
	if _, err := tls.LoadX509KeyPair(k.s.resolve(c.CertFile), k.s.resolve(c.KeyFile)); err != nil {
		k.bad(key, "cannot be used: %s", strings.TrimPrefix(err.Error(), "tls: "))
	}
}
