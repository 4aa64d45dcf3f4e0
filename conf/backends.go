package conf

import (
	"fmt"
	"net"
	"slices"
)

// Backend is a named mail store and its nodes.
type Backend struct {
	Name  string `toml:"name"`
	Nodes []Node `toml:"node"`
}

// Node is one backendd, as proxies reach it.
type Node struct {
	Name       string `toml:"name"`        // the backend's name when empty
	TLS        string `toml:"tls"`         // implicit (when empty), starttls or off
	ServerName string `toml:"server_name"` // in its certificate; the host of the address when empty
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
		for j, n := range b.Nodes {
			k.node(fmt.Sprintf("%s.node[%d]", key, j), n)
		}
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
