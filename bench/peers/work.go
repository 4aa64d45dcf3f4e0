package main

// kind is how a work is measured.
type kind int

const (
	logins kind = iota // CPU µs a session
	bulk               // CPU ms for a gigabyte
	idle               // PSS bytes a session
)

func (k kind) unit() string {
	return [...]string{"CPU µs", "CPU ms/GB", "PSS bytes"}[k]
}

// work is one row of the table.
type work struct {
	name    string
	title   string
	kind    kind
	service string // imap, pop3, submission, lmtp
	tls     bool   // between client and proxy; the backend leg is always clear
	bar     bar
}

// bar is what proxyd has to reach: at most factor times what a peer needs, with
// its helper, or at most limit.
type bar struct {
	peer   string
	factor float64
	limit  float64
}

func allWorks() []work {
	return []work{
		{"imap-plain", "IMAP login, plain", logins, "imap", false, bar{peer: "nginx", factor: 0.75}},
		{"imap-tls", "IMAP login, TLS 1.3 full handshake", logins, "imap", true, bar{peer: "nginx", factor: 0.75}},
		{"pop3-plain", "POP3 login, plain", logins, "pop3", false, bar{peer: "nginx", factor: 0.75}},
		{"pop3-tls", "POP3 login, TLS 1.3 full handshake", logins, "pop3", true, bar{peer: "nginx", factor: 0.75}},
		{"submission", "submission with one 2 kB message", logins, "submission", false, bar{peer: "nginx", factor: 0.9}},
		{"lmtp", "LMTP message of 2 kB", logins, "lmtp", false, bar{peer: "dovecot", factor: 0.5}},
		{"bulk-plain", "bulk FETCH, plain", bulk, "imap", false, bar{peer: "haproxy", factor: 1.15}},
		{"bulk-tls", "bulk FETCH, TLS", bulk, "imap", true, bar{peer: "nginx", factor: 1.0}},
		{"idle-plain", "idle session, plain", idle, "imap", false, bar{limit: 1000}},
		{"idle-tls", "idle session, TLS", idle, "imap", true, bar{limit: 12000}},
	}
}

func workNames() []string {
	var names []string
	for _, w := range allWorks() {
		names = append(names, w.name)
	}
	return names
}
