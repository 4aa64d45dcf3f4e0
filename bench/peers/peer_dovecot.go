package main

import "fmt"

// Dovecot's login proxy in its high-performance mode: one long-lived login
// process for all sessions, as the other proxies have; the auth process is in
// the same tree and account. The lookup is a constant. Its line for each session
// goes to its log process, which throws it away: it cannot be switched off.
func dovecot() peer {
	return peer{
		name:    "dovecot",
		title:   "Dovecot",
		version: func() (string, error) { return versionOf("", "dovecot", "--version") },
		start:   startDovecot,
	}
}

const dovecotConfig = `base_dir = ${dir}/run
state_dir = ${dir}/state
import_environment = OPENSSL_CONF
log_path = ${dir}/dovecot.err
info_log_path = /dev/null
debug_log_path = /dev/null
protocols = ${protocol}
listen = ${host}
disable_plaintext_auth = no
default_client_limit = 20000
default_vsz_limit = 0
ssl = ${ssl}
${certificate}
auth_mechanisms = plain login
lmtp_proxy = yes
passdb {
	driver = static
	args = proxy=y host=${stub_host} port=${stub_port} nopassword=y ${fields}
}
userdb {
	driver = static
	args = uid=65534 gid=65534 home=/nonexistent
}
service ${login} {
	service_count = 0
	process_min_avail = 1
	process_limit = 1
	client_limit = 20000
	${listener}
}
service anvil {
	client_limit = 20000
}
service auth {
	client_limit = 20000
}
service stats {
	client_limit = 20000
}
`

const dovecotCertificate = `ssl_cert = <${cert}
ssl_key = <${key}
ssl_cipher_suites = TLS_AES_128_GCM_SHA256
ssl_curve_list = X25519
ssl_options = no_ticket`

func startDovecot(b *bench, j job) (*running, error) {
	program, err := installed("dovecot")
	if err != nil {
		return nil, err
	}
	words := map[string]string{"protocol": j.service, "ssl": "no", "certificate": "", "fields": ""}
	listener := func(name, ssl string) string {
		return fmt.Sprintf("inet_listener %s {\n\t\taddress = ${host}\n\t\tport = ${port}\n\t\tssl = %s\n\t}", name, ssl)
	}
	switch j.service {
	case "imap", "pop3":
		words["login"] = j.service + "-login"
		// The other of the two standard listeners is switched off.
		on, off, ssl := j.service, j.service+"s", "no"
		if j.tls {
			on, off, ssl = off, on, "yes"
		}
		words["listener"] = listener(on, ssl) + "\n\tinet_listener " + off + " {\n\t\tport = 0\n\t}"
	case "submission":
		words["login"] = "submission-login"
		words["listener"] = listener("submission", "no") + "\n\tinet_listener submissions {\n\t\tport = 0\n\t}"
	case "lmtp":
		words["login"] = "lmtp"
		words["fields"] = "protocol=lmtp"
		words["listener"] = listener("lmtp", "no")
	default:
		return nil, errUnsupported
	}
	if j.tls {
		words["ssl"] = "required"
		words["certificate"] = b.withCertificate(dovecotCertificate)
	}
	// The listener has words of its own in it.
	config, err := j.write("dovecot.conf", expandOnce(dovecotConfig, "listener", words["listener"]), words)
	if err != nil {
		return nil, err
	}
	p, err := startProcess(j.dir, b.o.proxyCore, []string{"OPENSSL_CONF=" + b.openssl}, program, "-F", "-c", config)
	if err != nil {
		return nil, err
	}
	return &running{proxy: p}, nil
}
