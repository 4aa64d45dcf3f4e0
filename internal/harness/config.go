package harness

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"text/template"
)

// The listeners of a proxy and of a backend.
var (
	proxyListeners = []listener{
		{"imap", "imap", "starttls", false}, {"imaps", "imap", "implicit", false},
		{"pop3", "pop3", "starttls", false}, {"pop3s", "pop3", "implicit", false},
		{"submission", "submission", "starttls", false}, {"submissions", "submission", "implicit", false},
		{"smtp", "smtp", "starttls", false}, {"managesieve", "managesieve", "starttls", false},
	}
	headerListeners = []listener{
		{"imap-haproxy", "imap", "starttls", true}, {"pop3-haproxy", "pop3", "starttls", true}, {"smtp-haproxy", "smtp", "starttls", true},
	}
	backendServices = []string{"imap", "pop3", "submission", "lmtp", "managesieve"}
)

type listener struct {
	name, protocol, tls string
	header              bool
}

// prepare makes certificates, secrets, addresses and configuration files.
func (c *Cluster) prepare() error {
	if err := mkdir(c.Spec.Dir); err != nil {
		return err
	}
	var err error
	if c.CA, err = NewCA(c.Spec.Dir); err != nil {
		return err
	}
	c.Secret = rand.Text()
	for name, value := range map[string]string{"proxy.secret": rand.Text(), "tcpauth.secret": c.Secret} {
		if err := os.WriteFile(filepath.Join(c.Spec.Dir, name), []byte(value+"\n"), 0o600); err != nil {
			return err
		}
	}
	if err := c.addresses(); err != nil {
		return err
	}
	if err := c.writeTCPAuth(); err != nil {
		return err
	}
	for _, b := range c.Backends {
		if err := c.writeBackend(b); err != nil {
			return err
		}
	}
	for _, p := range c.Proxies {
		if err := c.writeProxy(p); err != nil {
			return err
		}
	}
	return nil
}

// addresses gives every listener of the cluster its address.
func (c *Cluster) addresses() error {
	listeners := proxyListeners
	if c.Spec.ProxyHeader {
		listeners = append(listeners[:len(listeners):len(listeners)], headerListeners...)
	}
	each := len(listeners) + 1
	free, err := FreeAddresses(c.Spec.Host, 1+len(c.Spec.Backends)*(len(backendServices)+1)+c.Spec.Proxies*each)
	if err != nil {
		return err
	}
	take := func() string {
		a := free[0]
		free = free[1:]
		return a
	}
	c.TCPAddr = take()
	for _, name := range c.Spec.Backends {
		b := &Backend{Name: name, Config: filepath.Join(c.Spec.Dir, name+".toml"), Data: filepath.Join(c.Spec.Dir, name), Addr: map[string]string{"admin": take()}}
		for _, s := range backendServices {
			b.Addr[s] = take()
		}
		c.Backends = append(c.Backends, b)
	}
	for i := range c.Spec.Proxies {
		name := fmt.Sprintf("proxy%d", i+1)
		p := &Proxy{Name: name, Config: filepath.Join(c.Spec.Dir, name+".toml"), Addr: map[string]string{"admin": take()}}
		for _, l := range listeners {
			p.Addr[l.name] = take()
		}
		c.Proxies = append(c.Proxies, p)
	}
	return nil
}

// shared is what every daemon's file begins with.
const shared = `[cluster]
domains = ["{{.Domain}}"]
default_domain = "{{.Domain}}"
default_backend = "{{.DefaultBackend}}"
proxy_secret = { file = "proxy.secret" }
ca_file = "ca.pem"

{{if .Directory}}{{.Directory}}{{else}}[directory]
kind = "tcpauth"
[directory.tcpauth]
servers = ["{{.TCPAddr}}"]
secret = { file = "tcpauth.secret" }
{{end}}{{if .Resolve}}[directory.resolve]
{{.Resolve}}
{{end}}{{if .Cache}}[directory.cache]
{{.Cache}}
{{end}}
{{range .Backends}}[[backend]]
name = "{{.Name}}"
[[backend.node]]
name = "{{.Name}}"
tls = "{{$.BackTLS}}"
imap = "{{.Addr.imap}}"
pop3 = "{{.Addr.pop3}}"
submission = "{{.Addr.submission}}"
lmtp = "{{.Addr.lmtp}}"
managesieve = "{{.Addr.managesieve}}"
{{end}}{{.Foreign}}
`

const tcpauthConfig = `[tcpauthd]
address = "{{.TCPAddr}}"
data = "users"
secret = { file = "tcpauth.secret" }
`

const backendConfig = `[backendd]
backend = "{{.Self.Name}}"
admin = "{{.Self.Addr.admin}}"
hostname = "{{.Self.Name}}.{{.Domain}}"
data = "{{.Self.Name}}"
certificate = { cert_file = "{{.Self.Name}}.pem", key_file = "{{.Self.Name}}.key" }
proxy_networks = ["127.0.0.0/8"]
proxies = [{{range $i, $p := .Proxies}}{{if $i}}, {{end}}"{{$p.Addr.smtp}}"{{end}}]
{{.BackendExtra}}
{{range $service, $address := .Self.Addr}}{{if ne $service "admin"}}
[[backendd.listen]]
protocol = "{{$service}}"
address = "{{$address}}"
tls = "{{$.BackTLS}}"
{{end}}{{end}}`

const proxyConfig = `[proxyd]
admin = "{{.Self.Addr.admin}}"
hostname = "{{.Self.Name}}.{{.Domain}}"
certificate = { cert_file = "{{.Self.Name}}.pem", key_file = "{{.Self.Name}}.key" }
{{.ProxyExtra}}
{{range .Listeners}}
[[proxyd.listen]]
protocol = "{{.Protocol}}"
address = "{{index $.Self.Addr .Name}}"
tls = "{{.TLS}}"
{{if .CleartextLogin}}cleartext_login = true
{{end}}{{if .Header}}proxy_protocol = true
proxy_networks = ["127.0.0.0/8"]
{{end}}{{end}}`

func (c *Cluster) writeTCPAuth() error {
	if err := mkdir(filepath.Join(c.Spec.Dir, "users")); err != nil {
		return err
	}
	return c.write(filepath.Join(c.Spec.Dir, "tcpauthd.toml"), tcpauthConfig, nil)
}

func (c *Cluster) writeBackend(b *Backend) error {
	if err := mkdir(b.Data); err != nil {
		return err
	}
	if _, _, err := c.CA.Issue(b.Name, c.Spec.Host, "localhost"); err != nil {
		return err
	}
	return c.write(b.Config, shared+backendConfig, map[string]any{"Self": b, "BackendExtra": c.Spec.BackendExtra})
}

func (c *Cluster) writeProxy(p *Proxy) error {
	if _, _, err := c.CA.Issue(p.Name, c.Spec.Host, "localhost"); err != nil {
		return err
	}
	type entry struct {
		Name, Protocol, TLS    string
		Header, CleartextLogin bool
	}
	var listeners []entry
	for _, l := range append(proxyListeners[:len(proxyListeners):len(proxyListeners)], headerListeners...) {
		if _, ok := p.Addr[l.name]; ok {
			listeners = append(listeners, entry{l.name, l.protocol, l.tls, l.header, l.tls == "starttls" && l.protocol != "smtp"})
		}
	}
	return c.write(p.Config, shared+proxyConfig, map[string]any{"Self": p, "Listeners": listeners, "ProxyExtra": c.Spec.ProxyExtra})
}

func (c *Cluster) write(path, text string, more map[string]any) error {
	values := map[string]any{
		"Domain": c.Spec.Domain, "DefaultBackend": c.Spec.DefaultBackend, "BackTLS": c.Spec.BackTLS, "Cache": c.Spec.Cache, "Resolve": c.Spec.Resolve,
		"Directory": c.Spec.Directory, "Foreign": c.Spec.Foreign, "TCPAddr": c.TCPAddr, "Backends": c.Backends, "Proxies": c.Proxies,
	}
	for k, v := range more {
		values[k] = v
	}
	t, err := template.New(filepath.Base(path)).Parse(text)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, values); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o600)
}
