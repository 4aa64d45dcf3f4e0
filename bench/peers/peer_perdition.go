package main

import "net"

// Perdition: a process for each session. No lookup: one backend for all, the
// cheapest it can do. It logs to syslog, of which there is none here unless the
// machine has one; -q leaves the line for each session out. Each process closes
// every descriptor that it could have, so it gets the usual limit of 1,024: with
// the 20,000 of the others a login would cost it five times as much. It knows no
// key exchange but P-256, which the clients have as their second choice.
func perdition() peer {
	return peer{
		name:    "perdition",
		title:   "Perdition",
		version: func() (string, error) { return versionOf("", "perdition", "--help") },
		start:   startPerdition,
		forks:   true,
	}
}

func startPerdition(b *bench, j job) (*running, error) {
	protocol, ok := map[string]string{"imap": "IMAP4", "pop3": "POP3"}[j.service]
	if !ok {
		return nil, errUnsupported
	}
	program, err := installed("perdition")
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(j.address)
	if err != nil {
		return nil, err
	}
	_, stubPort, err := net.SplitHostPort(j.stub)
	if err != nil {
		return nil, err
	}
	command := []string{"prlimit", "--nofile=1024", program, "-f", "/dev/null", "--no_daemon", "--pid_file", "", "-b", host, "-l", port,
		"-n", "-s", "127.0.0.1", "-p", stubPort, "-q", "-F", "/dev/null", "-u", "root", "-g", "root"}
	if j.tls {
		protocol += "S"
		command = append(command, "--ssl_mode", "ssl_listen", "--ssl_cert_file", b.cert, "--ssl_key_file", b.key,
			"--ssl_no_cert_verify", "--ssl_no_client_cert_verify", "--ssl_no_cn_verify")
	}
	command = append(command, "-P", protocol)
	p, err := startProcess(j.dir, b.o.proxyCore, []string{"OPENSSL_CONF=" + b.openssl}, command...)
	if err != nil {
		return nil, err
	}
	return &running{proxy: p}, nil
}
