package authhttp

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"switchyard/lookup"
)

// question is what nginx asks.
type question struct {
	method   string // plain or none
	protocol string // imap, pop3 or smtp
	typed    string // as the client typed it
	user     string // clean; empty when no account can have that name
	password string
	client   netip.Addr
	attempt  int // from 1
}

// readQuestion reads the headers of a request. bad says why they make no
// sense; it is said to the client.
func readQuestion(header http.Header, domain string) (q question, bad string) {
	q.method = strings.ToLower(header.Get("Auth-Method"))
	q.protocol = strings.ToLower(header.Get("Auth-Protocol"))
	switch q.protocol {
	case "imap", "pop3", "smtp":
	default:
		return q, "unknown protocol"
	}
	if client, err := netip.ParseAddr(header.Get("Client-IP")); err == nil {
		q.client = client.Unmap()
	}
	q.attempt, _ = strconv.Atoi(header.Get("Auth-Login-Attempt"))
	switch q.method {
	case "plain":
		return q, q.readLogin(header, domain)
	case "none":
		return q, q.readRecipient(header, domain)
	}
	// APOP, CRAM-MD5: the directory has no passwords in clear. EXTERNAL: the
	// certificate's owner is not known here.
	return q, "authentication method not supported"
}

func (q *question) readLogin(header http.Header, domain string) string {
	var ok bool
	if q.typed, ok = unescape(header.Get("Auth-User")); !ok {
		return "malformed user name"
	}
	if q.password, ok = unescape(header.Get("Auth-Pass")); !ok {
		return "malformed password"
	}
	q.user, _ = lookup.CleanName(q.typed, domain)
	return ""
}

// readRecipient takes the recipient from the raw RCPT command (RFC 5321
// §4.1.1.3), which nginx passes on for smtp without a login.
func (q *question) readRecipient(header http.Header, domain string) string {
	if q.protocol != "smtp" {
		return "authentication required"
	}
	raw, ok := unescape(header.Get("Auth-SMTP-To"))
	if !ok {
		return "malformed recipient"
	}
	_, path, found := strings.Cut(raw, "<")
	address, _, closed := strings.Cut(path, ">")
	if !found || !closed {
		return "malformed recipient"
	}
	q.typed = address
	q.user, _ = lookup.CleanName(address, domain)
	return ""
}

// word is the protocol's name among us.
func (q question) word() string {
	if q.protocol == "smtp" {
		return "submission"
	}
	return q.protocol
}

// unescape undoes what nginx does to user names and passwords: a space, a
// percent sign and a control character become %XX.
func unescape(s string) (string, bool) {
	if len(s) > maxHeader {
		return "", false
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) {
				return "", false
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", false
			}
			c = byte(n)
			i += 2
		}
		b = append(b, c)
	}
	return string(b), true
}

// kind is why an answer is not yes.
type kind int

const (
	rejected kind = iota
	unavailable
	noUser
	forbidden
	badRequest
)

// text is what nginx tells the client, behind NO, -ERR or the code.
func (q question) text(k kind) string {
	switch k {
	case unavailable:
		switch q.protocol {
		case "pop3":
			return "[SYS/TEMP] the directory cannot answer now, try again later" // RFC 3206 §4
		case "imap":
			return "[UNAVAILABLE] the directory cannot answer now, try again later" // RFC 5530 §3
		}
		return "the directory cannot answer now, try again later"
	case noUser:
		return "no such user"
	}
	switch q.protocol {
	case "pop3":
		return "[AUTH] invalid login or password"
	case "imap":
		return "[AUTHENTICATIONFAILED] invalid login or password"
	}
	return "invalid login or password"
}

// code is the reply code for smtp, which nginx puts in front of the text; what
// it puts there by itself is permanent.
func (q question) code(k kind) string {
	if q.protocol != "smtp" {
		return ""
	}
	switch k {
	case unavailable:
		if q.method == "none" {
			return "451 4.3.0"
		}
		return "454 4.7.0" // RFC 4954 §4.7
	case noUser:
		return "550 5.1.1"
	case forbidden:
		if q.method == "none" {
			return "550 5.2.1"
		}
		return "535 5.7.8"
	case badRequest:
		return "504 5.5.4"
	}
	return "535 5.7.8"
}

// forbidden says why an account in this state may not do what is asked, behind
// the right password; empty when it may.
func (q question) forbidden(s lookup.Status) string {
	if q.method == "none" {
		if s.MayReceive() {
			return ""
		}
		return "mailbox disabled"
	}
	if s.MayLogin() {
		return ""
	}
	reason := "account disabled"
	switch s {
	case lookup.StatusSuspended:
		reason = "account suspended"
	case lookup.StatusPayUp:
		reason = "account suspended, payment is due"
	}
	switch q.protocol {
	case "pop3":
		return "[AUTH] " + reason
	case "imap":
		return "[CONTACTADMIN] " + reason // RFC 5530 §3
	}
	return reason
}
