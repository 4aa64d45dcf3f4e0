package main

// HAProxy in TCP mode: it joins connections and, with TLS, ends it. There is no
// login, no lookup and no identity, so it is what moving the bytes costs. One
// thread, no log, splice(2) in both directions whenever it can: splice-auto would
// cost it twice as much.
func haproxy() peer {
	return peer{
		name:    "haproxy",
		title:   "HAProxy (L4, no login)",
		version: func() (string, error) { return versionOf("", "haproxy", "-v") },
		start:   startHAProxy,
	}
}

const haproxyConfig = `global
	nbthread 1
	maxconn 9700
	maxpipes 100
	tune.ssl.cachesize 0
	ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
	ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
	ssl-default-bind-curves X25519
defaults
	mode tcp
	timeout connect 10s
	timeout client 1h
	timeout server 1h
	option splice-request
	option splice-response
listen mail
	bind ${address} ${ssl}
	server stub ${stub}
`

func startHAProxy(b *bench, j job) (*running, error) {
	program, err := installed("haproxy")
	if err != nil {
		return nil, err
	}
	words := map[string]string{"ssl": ""}
	if j.tls {
		words["ssl"] = "ssl crt " + b.both
	}
	config, err := j.write("haproxy.cfg", haproxyConfig, words)
	if err != nil {
		return nil, err
	}
	p, err := startProcess(j.dir, b.o.proxyCore, []string{"OPENSSL_CONF=" + b.openssl}, program, "-db", "-f", config)
	if err != nil {
		return nil, err
	}
	return &running{proxy: p}, nil
}
