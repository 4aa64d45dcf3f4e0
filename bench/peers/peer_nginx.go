package main

import "fmt"

// nginx's mail proxy: one worker. It asks its helper for every login, since it
// has no cache; the helper is the cheapest there can be, a second nginx that
// returns constant headers. It runs on the load's core, where it does not get
// in the proxy's way, and its CPU is counted beside the proxy's. Errors alone
// are logged. Its buffers are 64 kB, with which it moves data three times as fast
// as with the default of 4 kB, and which it does not touch otherwise. Towards the backend nginx sends LOGIN in three steps (IMAP),
// USER and PASS (POP3), or XCLIENT and no AUTH (submission), its default.
func nginx() peer {
	return peer{
		name:    "nginx",
		title:   "nginx mail",
		version: func() (string, error) { return versionOf("nginx/", "nginx", "-v") },
		start:   startNginx,
	}
}

const nginxMail = `load_module /usr/lib/nginx/modules/ngx_mail_module.so;
daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 20000;
pid ${dir}/nginx.pid;
error_log ${dir}/nginx.err crit;
events { worker_connections 19900; }
mail {
	server_name proxy.example.test;
	auth_http ${helper}/;
	server {
		listen ${address} ${ssl};
		protocol ${protocol};
		timeout 3600s;
		proxy_buffer 64k;
		proxy_timeout 3600s;
		smtp_auth plain login;
		${certificate}
	}
}
`

const nginxCertificate = `ssl_certificate ${cert};
		ssl_certificate_key ${key};
		ssl_protocols TLSv1.3;
		ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
		ssl_ecdh_curve X25519;
		ssl_session_cache off;
		ssl_session_tickets off;`

const nginxHelper = `daemon off;
user root;
worker_processes 1;
pid ${dir}/helper.pid;
error_log ${dir}/helper.err crit;
events { worker_connections 1000; }
http {
	access_log off;
	server_tokens off;
	client_body_temp_path ${dir}/body;
	proxy_temp_path ${dir}/proxy;
	fastcgi_temp_path ${dir}/fastcgi;
	uwsgi_temp_path ${dir}/uwsgi;
	scgi_temp_path ${dir}/scgi;
	server {
		listen ${helper};
		location / {
			add_header Auth-Status OK;
			add_header Auth-Server ${stub_host};
			add_header Auth-Port ${stub_port};
			return 204;
		}
	}
}
`

func startNginx(b *bench, j job) (*running, error) {
	protocol, ok := map[string]string{"imap": "imap", "pop3": "pop3", "submission": "smtp"}[j.service]
	if !ok {
		return nil, errUnsupported
	}
	program, err := installed("nginx")
	if err != nil {
		return nil, err
	}
	helper, err := freeAddress()
	if err != nil {
		return nil, err
	}
	words := map[string]string{"protocol": protocol, "helper": helper, "ssl": "", "certificate": ""}
	if j.tls {
		words["ssl"] = "ssl"
		words["certificate"] = b.withCertificate(nginxCertificate)
	}
	mail, err := j.write("mail.conf", nginxMail, words)
	if err != nil {
		return nil, err
	}
	lookup, err := j.write("helper.conf", nginxHelper, words)
	if err != nil {
		return nil, err
	}
	h, err := startProcess(j.dir, b.o.loadCore, nil, program, "-e", "stderr", "-c", lookup)
	if err != nil {
		return nil, err
	}
	if err := h.ready(b.ctx, helper); err != nil {
		h.stop()
		return nil, fmt.Errorf("the lookup helper: %w", err)
	}
	p, err := startProcess(j.dir, b.o.proxyCore, []string{"OPENSSL_CONF=" + b.openssl}, program, "-e", "stderr", "-c", mail)
	if err != nil {
		h.stop()
		return nil, err
	}
	return &running{proxy: p, helper: h}, nil
}
