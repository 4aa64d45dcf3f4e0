package conf

import (
	"fmt"
	"strings"
)

// Cluster is what all tiers agree on.
type Cluster struct {
	Domains        []string `toml:"domains"`         // the mail domains whose users live here
	DefaultDomain  string   `toml:"default_domain"`  // added to a login name without a domain
	DefaultBackend string   `toml:"default_backend"` // home of accounts that are found without one
	ProxyName      string   `toml:"proxy_name"`      // what proxies log in to backends as; "proxy" when empty
	ProxySecret    Secret   `toml:"proxy_secret"`    // the password that goes with it
	CAFile         string   `toml:"ca_file"`         // signs the certificates between the tiers; the system's CAs when empty
}

func (k *checker) cluster() {
	c := k.c.Cluster
	for i, d := range c.Domains {
		k.domain(fmt.Sprintf("cluster.domains[%d]", i), d)
	}
	if c.DefaultDomain != "" {
		k.domain("cluster.default_domain", c.DefaultDomain)
	}
	if c.DefaultBackend != "" && !k.hasBackend(c.DefaultBackend) {
		k.bad("cluster.default_backend", "no [[backend]] is named %q%s", c.DefaultBackend, k.didYouMean(c.DefaultBackend, k.backendNames()))
	}
	k.file("cluster.ca_file", c.CAFile)
}

// needSecret loads the secret between proxies and backends.
func (k *checker) needSecret() {
	s := &k.c.Cluster.ProxySecret
	if k.need("cluster.proxy_secret", s.IsSet(), "the secret that proxies log in to backends with: { file = \"…\" } or { env = \"…\" }") {
		k.secret("cluster.proxy_secret", s)
	}
	if strings.ContainsAny(k.c.Cluster.ProxyName, "@ \t\x00") {
		k.bad("cluster.proxy_name", "%q could be a user's name; choose a word without @ and spaces", k.c.Cluster.ProxyName)
	}
}

func (k *checker) domain(key, d string) {
	if d == "" || strings.ContainsAny(d, "@ \t/") || strings.HasPrefix(d, ".") || strings.HasSuffix(d, ".") || d != strings.ToLower(d) {
		k.bad(key, "%q is not a domain in lower case, such as example.com", d)
	}
}
