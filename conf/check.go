package conf

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// checker gathers the problems of one configuration.
type checker struct {
	c        *Config
	s        *source
	problems []error
}

func (k *checker) bad(key, format string, args ...any) {
	k.problems = append(k.problems, &Problem{File: k.s.path, Line: k.s.line(key), Key: key, Text: fmt.Sprintf(format, args...)})
}

// check looks at what every daemon shares, then at the daemon's own part.
func (k *checker) check(daemon Daemon) {
	k.cluster()
	k.backends()
	switch daemon {
	case ProxydDaemon:
		k.directory()
		k.proxyd()
	case BackenddDaemon:
		k.directory()
		k.backendd()
	case TcpauthdDaemon:
		k.tcpauthd()
	}
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
		for _, a := range []string{n.IMAP, n.POP3, n.Submission} {
			if host, _, err := net.SplitHostPort(a); err == nil && !loopback(host) {
				k.bad(key+".tls", "would send the proxy's secret in clear to %s, and a backendd would refuse it; use implicit or starttls", a)
				break
			}
		}
	}
	addresses := []struct{ service, address string }{{"imap", n.IMAP}, {"pop3", n.POP3}, {"submission", n.Submission}, {"lmtp", n.LMTP}}
	for _, a := range addresses {
		if a.address != "" {
			k.dialAddress(key+"."+a.service, a.address)
		}
	}
	if n.IMAP+n.POP3+n.Submission+n.LMTP == "" {
		k.bad(key, "the node has no address; set at least one of imap, pop3, submission, lmtp")
	}
}

func (k *checker) directory() {
	d := &k.c.Directory
	switch {
	case d.Kind == "":
		k.bad("directory.kind", "missing; say where accounts are looked up: tcpauth, ldap, file, or stack for several")
	case !k.oneOf("directory.kind", d.Kind, "tcpauth", "ldap", "file", "stack"):
	case d.Kind == "stack":
		k.stack(d.Members)
	default:
		if len(d.Members) > 0 {
			k.bad("directory.member[0]", "has no meaning beside kind = %q; stacked directories need kind = \"stack\"", d.Kind)
		}
		k.directorySource("directory", &d.Source)
	}
	if sl := time.Duration(d.Cache.StaleLogin); sl > 15*time.Minute {
		k.bad("directory.cache.stale_login", "%v is longer than 15m: an old answer may not log in longer than that", sl)
	}
	if d.Cache.Entries < 0 {
		k.bad("directory.cache.entries", "%d is negative", d.Cache.Entries)
	}
}

func (k *checker) stack(members []Member) {
	k.need("directory.member", len(members) > 0, "at least one [[directory.member]]")
	for i := range members {
		m := &members[i]
		key := fmt.Sprintf("directory.member[%d]", i)
		for j, d := range m.Domains {
			k.domain(fmt.Sprintf("%s.domains[%d]", key, j), d)
		}
		if m.Next && i == len(members)-1 {
			k.bad(key+".next", "there is no next member: this is the last")
		}
		if m.Kind == "" {
			k.bad(key+".kind", "missing; one of tcpauth, ldap, file")
		} else if k.oneOf(key+".kind", m.Kind, "tcpauth", "ldap", "file") {
			k.directorySource(key, &m.Source)
		}
	}
}

// directorySource checks one directory, of which the kind is known.
func (k *checker) directorySource(key string, s *Source) {
	switch s.Kind {
	case "tcpauth":
		key += ".tcpauth"
		k.need(key+".servers", len(s.TCPAuth.Servers) > 0, "at least one host:port of a tcpauthd")
		for i, a := range s.TCPAuth.Servers {
			k.dialAddress(fmt.Sprintf("%s.servers[%d]", key, i), a)
		}
		k.file(key+".ca_file", s.TCPAuth.CAFile)
		k.secret(key+".secret", &s.TCPAuth.Secret)
	case "ldap":
		k.ldap(key+".ldap", &s.LDAP)
	case "file":
		if k.need(key+".file.path", s.File.Path != "", "the file of NWAuth records") {
			k.file(key+".file.path", s.File.Path)
		}
	}
}

func (k *checker) ldap(key string, l *DirectoryLDAP) {
	k.need(key+".urls", len(l.URLs) > 0, "at least one ldap://, ldaps:// or ldapi:// URL")
	for i, u := range l.URLs {
		parsed, err := url.Parse(u)
		switch {
		case err != nil || !slices.Contains([]string{"ldap", "ldaps", "ldapi"}, parsed.Scheme):
			k.bad(fmt.Sprintf("%s.urls[%d]", key, i), "%q is not an ldap://, ldaps:// or ldapi:// URL", u)
		case parsed.Scheme == "ldaps" && l.StartTLS:
			k.bad(key+".starttls", "contradicts %s: ldaps:// is encrypted from the start; use ldap:// with starttls", u)
		}
	}
	k.oneOf(key+".preset", l.Preset, "switchyard", "laser", "zimbra", "ad", "ad-upn")
	k.oneOf(key+".verify", l.Verify, "bind", "hash")
	k.need(key+".base", l.Base != "", "the DN below which accounts are searched")
	if l.Filter != "" && !strings.Contains(l.Filter, "{name}") {
		k.bad(key+".filter", "must contain {name}: the account's name goes there")
	}
	if l.BindDN != "" && !l.BindPassword.IsSet() {
		k.bad(key+".bind_password", "missing beside bind_dn; write { file = \"…\" } or { env = \"…\" }")
	}
	if l.External && l.BindDN != "" {
		k.bad(key+".external", "contradicts bind_dn: with EXTERNAL the certificate says who binds; keep one of the two")
	}
	k.certificate(key+".certificate", l.Certificate)
	k.file(key+".ca_file", l.CAFile)
	k.secret(key+".bind_password", &l.BindPassword)
}

func (k *checker) proxyd() {
	p := k.c.Proxyd
	k.need("backend", len(k.c.Backends) > 0, "at least one [[backend]]: a proxy needs somewhere to go")
	k.needSecret()
	k.admin("proxyd.admin", p.Admin)
	k.certificate("proxyd.certificate", p.Certificate)
	k.listeners("proxyd.listen", p.Listeners, p.Certificate, []string{"imap", "pop3", "submission", "smtp"})
	for i, l := range p.Listeners {
		if l.Protocol == "smtp" && len(k.c.Cluster.Domains) == 0 {
			k.bad(fmt.Sprintf("proxyd.listen[%d].protocol", i), "smtp needs cluster.domains: without local domains every recipient would be refused")
		}
	}
	k.dir("proxyd.spool_dir", p.SpoolDir)
}

func (k *checker) backendd() {
	b := k.c.Backendd
	if k.need("backendd.backend", b.Backend != "", "the name of the backend that this node belongs to") && len(k.c.Backends) > 0 && !k.hasBackend(b.Backend) {
		k.bad("backendd.backend", "no [[backend]] is named %q%s", b.Backend, k.didYouMean(b.Backend, k.backendNames()))
	}
	k.need("backendd.data", b.Data != "", "the directory of the mail store")
	k.needSecret()
	k.admin("backendd.admin", b.Admin)
	k.certificate("backendd.certificate", b.Certificate)
	k.networks("backendd.proxy_networks", b.ProxyNetworks)
	k.listeners("backendd.listen", b.Listeners, b.Certificate, []string{"imap", "pop3", "submission", "lmtp"})
	for i, l := range b.Listeners {
		if l.Protocol == "lmtp" && (l.TLS == "off" || b.Certificate.Empty()) {
			k.bad(fmt.Sprintf("backendd.listen[%d].tls", i), "lmtp needs TLS: a proxy's secret is never taken in clear; set a certificate and tls = \"implicit\"")
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

func (k *checker) tcpauthd() {
	t := &k.c.Tcpauthd
	k.need("tcpauthd.data", t.Data != "", "the directory of the user database")
	if k.need("tcpauthd.address", t.Address != "", "the host:port to listen on") {
		k.listenAddress("tcpauthd.address", t.Address)
	}
	k.admin("tcpauthd.admin", t.Admin)
	k.certificate("tcpauthd.certificate", t.Certificate)
	k.networks("tcpauthd.networks", t.Networks)
	k.secret("tcpauthd.secret", &t.Secret)
	k.replication(t)
	k.argon2("tcpauthd.argon2", t.Argon2)
	if t.UpgradeHashes && t.Primary != "" {
		k.bad("tcpauthd.upgrade_hashes", "has no meaning on a replica: the primary's logins do it")
	}
}

func (k *checker) replication(t *Tcpauthd) {
	k.networks("tcpauthd.replicas", t.Replicas)
	if len(t.Replicas) > 0 && !t.Secret.IsSet() {
		k.bad("tcpauthd.replicas", "needs tcpauthd.secret: a copy has all password hashes")
	}
	if t.Primary == "" {
		if t.PrimaryTLS || t.CAFile != "" {
			k.bad("tcpauthd.primary", "missing; primary_tls and ca_file are about the primary")
		}
		return
	}
	k.dialAddress("tcpauthd.primary", t.Primary)
	if t.Primary == t.Address {
		k.bad("tcpauthd.primary", "%s is this daemon itself", t.Primary)
	}
	if t.CAFile != "" && !t.PrimaryTLS {
		k.bad("tcpauthd.ca_file", "has no meaning without primary_tls = true")
	}
	k.file("tcpauthd.ca_file", t.CAFile)
}

// argon2 bounds the costs to what can be verified again.
func (k *checker) argon2(key string, a Argon2) {
	for _, c := range []struct {
		name        string
		value, most int
	}{{"memory", a.Memory, 256 << 10}, {"passes", a.Passes, 32}, {"threads", a.Threads, 16}} {
		if c.value < 0 || c.value > c.most {
			k.bad(key+"."+c.name, "%d is not between 1 and %d", c.value, c.most)
		}
	}
	if a.Memory > 0 && a.Memory < 8*max(1, a.Threads) {
		k.bad(key+".memory", "%d KiB is less than 8 for each thread", a.Memory)
	}
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
		k.networks(key+".proxy_networks", l.ProxyNetworks)
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

func (k *checker) secret(key string, s *Secret) {
	if err := s.load(k.s.resolve); err != nil {
		k.bad(key, "%v", err)
	}
}

// need reports a missing key.
func (k *checker) need(key string, present bool, what string) bool {
	if !present {
		k.bad(key, "missing; set %s", what)
	}
	return present
}

// oneOf checks a word. The empty word stands for the first, the default.
func (k *checker) oneOf(key, value string, words ...string) bool {
	if value == "" || slices.Contains(words, value) {
		return true
	}
	k.bad(key, "%q is none of %s%s", value, strings.Join(words, ", "), k.didYouMean(value, words))
	return false
}

func (k *checker) didYouMean(value string, words []string) string {
	if near := nearest(value, words); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

func (k *checker) file(key, path string) bool {
	if path == "" {
		return true
	}
	f, err := os.Open(k.s.resolve(path))
	if err != nil {
		k.bad(key, "cannot read %s: %s", path, cause(err))
		return false
	}
	f.Close()
	return true
}

func (k *checker) dir(key, path string) {
	if path == "" {
		return
	}
	if info, err := os.Stat(k.s.resolve(path)); err != nil {
		k.bad(key, "cannot use %s: %s", path, cause(err))
	} else if !info.IsDir() {
		k.bad(key, "%s is not a directory", path)
	}
}

// listenAddress checks host:port where the host is an IP address, a name, or
// empty for every address.
func (k *checker) listenAddress(key, address string) bool {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		k.bad(key, "%q is not host:port, such as 127.0.0.1:143 or [::1]:143 (or :143 for every address)", address)
		return false
	}
	return true
}

// dialAddress checks host:port with both parts.
func (k *checker) dialAddress(key, address string) {
	host, port, err := net.SplitHostPort(address)
	if err == nil {
		var n uint64
		n, err = strconv.ParseUint(port, 10, 16)
		if err == nil && (n == 0 || host == "") {
			err = fmt.Errorf("incomplete")
		}
	}
	if err != nil {
		k.bad(key, "%q is not host:port, such as mail1.example.com:993 or [2001:db8::1]:993", address)
	}
}

// admin checks the address of an admin listener: it has no login of its own
// yet, so it stays on this machine.
func (k *checker) admin(key, address string) {
	if address == "" || !k.listenAddress(key, address) {
		return
	}
	if host, _, _ := net.SplitHostPort(address); !loopback(host) {
		k.bad(key, "%q is not a loopback address; the admin listener must stay on this machine: 127.0.0.1 or [::1]", address)
	}
}

// loopback reports whether a host is this machine alone.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (k *checker) networks(key string, networks []string) {
	for i, n := range networks {
		if _, err := netip.ParsePrefix(n); err != nil {
			hint := ""
			if ip, err := netip.ParseAddr(n); err == nil {
				hint = fmt.Sprintf("; did you mean %s/%d?", n, ip.BitLen())
			}
			k.bad(fmt.Sprintf("%s[%d]", key, i), "%q is not a network such as 10.0.2.0/24%s", n, hint)
		}
	}
}

func (k *checker) domain(key, d string) {
	if d == "" || strings.ContainsAny(d, "@ \t/") || strings.HasPrefix(d, ".") || strings.HasSuffix(d, ".") || d != strings.ToLower(d) {
		k.bad(key, "%q is not a domain in lower case, such as example.com", d)
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

// Networks parses networks that Load has checked.
func Networks(networks []string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(networks))
	for _, n := range networks {
		if p, err := netip.ParsePrefix(n); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}
