package conf

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net"
	"slices"
	"strings"
)

// Backend is a named mail store and its nodes.
type Backend struct {
	Name  string `toml:"name"`
	Nodes []Node `toml:"node"`

	// How proxies log in there, when it is no backendd: see docs/existing-server.md.
	ForwardPassword bool   `toml:"forward_password"` // as the user, with the client's own password
	Unchecked       bool   `toml:"unchecked"`        // … which the directory is not asked about
	LoginAs         string `toml:"login_as"`         // the name that logs in, with %u, %n and %d, as in %u*proxy
	LoginSecret     Secret `toml:"login_secret"`     // its secret; cluster.proxy_secret when empty
	Probe           string `toml:"probe"`            // an account that health checks log in for
}

// Node is one backendd, as proxies reach it.
type Node struct {
	Name       string `toml:"name"`        // the backend's name when empty
	TLS        string `toml:"tls"`         // implicit (when empty), starttls or off
	ServerName string `toml:"server_name"` // in its certificate; the host of the address when empty

	CAFile      string      `toml:"ca_file"`     // who signs its certificate; cluster.ca_file when empty
	Pins        []string    `toml:"pins"`        // keys, as base64 of their SHA-256: without ca_file nothing else is asked of it
	Certificate Certificate `toml:"certificate"` // shown to it

	IMAP       string `toml:"imap"`
	POP3       string `toml:"pop3"`
	Submission string `toml:"submission"`
	LMTP       string `toml:"lmtp"`
	Sieve      string `toml:"managesieve"`
}

// Clear reports whether the node's connections begin in clear text.
func (n Node) Clear() bool { return n.TLS == "starttls" || n.TLS == "off" }

func (k *checker) backends() {
	seen := make(map[string]bool)
	for i, b := range k.c.Backends {
		key := fmt.Sprintf("backend[%d]", i)
		switch {
		case b.Name == "":
			k.bad(key+".name", "every backend needs a name: it is the home (tohost) in the directory")
		case seen[b.Name]:
			k.bad(key+".name", "a second backend is named %q; give each its own name, and a backend's further nodes their own [[backend.node]]", b.Name)
		}
		seen[b.Name] = true
		if len(b.Nodes) == 0 {
			k.bad(key, "backend %q has no node; add a [[backend.node]] with its addresses", b.Name)
		}
		k.loginPolicy(key, &k.c.Backends[i])
		for j, n := range b.Nodes {
			k.node(fmt.Sprintf("%s.node[%d]", key, j), n)
		}
	}
}

func (k *checker) loginPolicy(key string, b *Backend) {
	k.secret(key+".login_secret", &b.LoginSecret)
	k.loginAs(key+".login_as", b)
	if b.Unchecked && !b.ForwardPassword {
		k.bad(key+".unchecked", "has no meaning without forward_password = true: nobody would have checked the password")
	}
	if b.ForwardPassword && b.LoginSecret.IsSet() {
		k.bad(key+".login_secret", "has no meaning with forward_password: the client's own password logs in")
	}
}

// loginAs checks the name that logs in for an account.
func (k *checker) loginAs(key string, b *Backend) {
	switch {
	case b.LoginAs == "":
	case b.ForwardPassword:
		k.bad(key, "has no meaning with forward_password: the client's own name logs in")
	case !strings.Contains(b.LoginAs, "%u") && !strings.Contains(b.LoginAs, "%n"):
		k.bad(key, "%q would log in as the same user for every account; put %%u (the account's name) or %%n (what is before its @) in, as in %%u*proxy, or leave it out to log in with an authorisation identity", b.LoginAs)
	case strings.Contains(strings.NewReplacer("%u", "", "%n", "", "%d", "").Replace(b.LoginAs), "%"):
		k.bad(key, "%q has a %% that stands for nothing; %%u is the account's name, %%n what is before its @, %%d what is behind it", b.LoginAs)
	}
}

func (k *checker) node(key string, n Node) {
	k.oneOf(key+".tls", n.TLS, "implicit", "starttls", "off")
	if n.TLS == "off" {
		for _, a := range []string{n.IMAP, n.POP3, n.Submission, n.Sieve} {
			if host, _, err := net.SplitHostPort(a); err == nil && !loopback(host) {
				k.bad(key+".tls", "would send the proxy's secret in clear to %s, and a backendd would refuse it; use implicit or starttls", a)
				break
			}
		}
	}
	k.file(key+".ca_file", n.CAFile)
	k.certificate(key+".certificate", n.Certificate)
	for i, pin := range n.Pins {
		if raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(pin, "sha256/")); err != nil || len(raw) != sha256.Size {
			k.bad(fmt.Sprintf("%s.pins[%d]", key, i), "%q is not the base64 of a SHA-256 digest", pin)
		}
	}
	addresses := []struct{ service, address string }{{"imap", n.IMAP}, {"pop3", n.POP3}, {"submission", n.Submission}, {"lmtp", n.LMTP}, {"managesieve", n.Sieve}}
	for _, a := range addresses {
		if a.address != "" {
			k.dialAddress(key+"."+a.service, a.address)
		}
	}
	if n.IMAP+n.POP3+n.Submission+n.LMTP+n.Sieve == "" {
		k.bad(key, "the node has no address; set at least one of imap, pop3, submission, lmtp, managesieve")
	}
}

func (k *checker) hasBackend(name string) bool { return slices.Contains(k.backendNames(), name) }

func (k *checker) backendNames() []string {
	var names []string
	for _, b := range k.c.Backends {
		names = append(names, b.Name)
	}
	return names
}
