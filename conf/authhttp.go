package conf

// AuthHTTP answers the auth_http requests of nginx's mail proxy.
type AuthHTTP struct {
	Address  string   `toml:"address"`  // host:port; nothing is answered when empty
	Secret   Secret   `toml:"secret"`   // nginx sends it with auth_http_header Auth-Key
	Networks []string `toml:"networks"` // where nginx may ask from; loopback only when empty
	Attempts int      `toml:"attempts"` // wrong passwords on a connection; 3 when zero
	Wait     Duration `toml:"wait"`     // before the next try; 3s when zero
	Timeout  Duration `toml:"timeout"`  // of the directory; 10s when zero
	Anyone   bool     `toml:"anyone"`   // tell where a recipient's mail goes without a login (smtp_auth none)
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
	k.listenAddress(key+".address", a.Address)
	if len(a.Networks) > 0 && !a.Secret.IsSet() {
		k.bad(key+".secret", "missing: whoever can reach the port could try passwords; set it here and in nginx with auth_http_header Auth-Key")
	}
	k.need("backend", len(k.c.Backends) > 0, "at least one [[backend]]: nginx is told where to connect")
	if a.Attempts < 0 {
		k.bad(key+".attempts", "%d is negative", a.Attempts)
	}
}
