package conf

import (
	"fmt"
	"net"
	"slices"
)

// AuthHTTP answers the auth_http requests of nginx's mail proxy. nginx is sent
// to the [[backend]] tables' nodes with tls = "starttls" or "off": it speaks to
// them in clear, and logs in with the user's own password.
type AuthHTTP struct {
	Address   string   `toml:"address"`   // host:port; nothing is answered when empty
	Secret    Secret   `toml:"secret"`    // nginx sends it with auth_http_header Auth-Key
	Networks  []string `toml:"networks"`  // where nginx may ask from; loopback only when empty
	Attempts  int      `toml:"attempts"`  // wrong passwords on a connection; 3 when zero
	Wait      Duration `toml:"wait"`      // before the next try; 3s when zero
	Timeout   Duration `toml:"timeout"`   // of the directory; 10s when zero
	Anonymous bool     `toml:"anonymous"` // tell where a recipient's mail goes without a login (smtp_auth none)
}

// authHTTP checks who may ask: whoever may can try passwords without end.
func (k *checker) authHTTP(key string, a *AuthHTTP) {
	k.secret(key+".secret", &a.Secret)
	k.networks(key+".networks", a.Networks)
	if a.Address == "" {
		if a.Secret.IsSet() || len(a.Networks) > 0 {
			k.bad(key+".address", "missing; set the host:port that nginx asks")
		}
		return
	}
	if k.listenAddress(key+".address", a.Address) && len(a.Networks) == 0 {
		if host, _, _ := net.SplitHostPort(a.Address); !loopback(host) {
			k.bad(key+".networks", "missing: only this machine may ask, and %s is for others too; list nginx's networks, or listen on 127.0.0.1", a.Address)
		}
	}
	if len(a.Networks) > 0 && !a.Secret.IsSet() {
		k.bad(key+".secret", "missing: whoever can reach the port could try passwords; set it here and in nginx with auth_http_header Auth-Key")
	}
	k.notNegative(key+".attempts", a.Attempts)
	k.need("backend", len(k.c.Backends) > 0, "at least one [[backend]]: nginx is told where to connect")
	for i, b := range k.c.Backends {
		if !slices.ContainsFunc(b.Nodes, Node.Clear) {
			k.bad(fmt.Sprintf("backend[%d]", i), "nginx speaks no TLS to backends, and %q has TLS from the start only; add a [[backend.node]] with tls = \"starttls\" for it", b.Name)
		}
	}
}
