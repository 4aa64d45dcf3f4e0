// Package authhttp answers nginx's auth_http requests (ngx_mail_auth_http) from
// a directory, so that nginx can be the mail proxy in front of a cluster, or
// can be replaced by the cluster's own proxies one at a time:
//
//	GET /auth HTTP/1.0               HTTP/1.0 200 OK
//	Auth-Method: plain               Auth-Status: OK
//	Auth-User: anna@example.test     Auth-User: anna@example.test
//	Auth-Pass: sesame                Auth-Server: 192.0.2.11
//	Auth-Protocol: imap              Auth-Port: 143
//	Client-IP: 198.51.100.7
//
// The three answers stay apart. A wrong password and an unknown user are one
// text; a directory that cannot answer is another, with a temporary code where
// the protocol has codes, and never "invalid login". Who may not log in, by the
// status of the account, learns it only behind the right password.
//
// Every answer has the status 200: nginx takes anything else for a failure of
// its own. The handler does not know who asks: it belongs on an admin listener,
// or behind a shared secret (Options.Secret, nginx's auth_http_header).
package authhttp

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"switchyard/lookup"
)

// Place says where a home's server for a protocol is: imap, pop3 or smtp, as
// nginx names them. An empty home is the default backend's. nginx connects to
// address literals only. An error means that nobody can say now; it never
// becomes a refusal.
type Place func(ctx context.Context, protocol, home string) (netip.AddrPort, error)

// Options for New. The zero value works.
type Options struct {
	// Secret must stand in the header Auth-Key of each request; nginx sends it
	// with auth_http_header Auth-Key "…". Empty means that none is needed.
	Secret string

	// DefaultDomain is added to user names without one. Empty means that such
	// names stay as they are.
	DefaultDomain string

	// Attempts is how many wrong passwords a connection may show. Zero means
	// 3; nginx counts them in Auth-Login-Attempt.
	Attempts int

	// Wait is how long nginx waits before it lets a client try again. Zero
	// means 3 seconds; parts of a second are lost.
	Wait time.Duration

	// Timeout is how long the directory and Place may take. Zero means 10
	// seconds; nginx's auth_http_timeout is 60.
	Timeout time.Duration

	// Anonymous lets nginx ask where the mail of a recipient goes without a
	// login (Auth-Method none, smtp_auth none). Without it such requests are
	// refused.
	Anonymous bool

	// Log is told of each answer: the user as asked for, and the answer's
	// kind. Nil means nobody.
	Log func(user, protocol string, client netip.Addr, answer lookup.Answer, err error)
}

// maxHeader bounds a value that is looked at, before its escapes are undone: a
// name or a password of 1,024 bytes, all of them escaped.
const maxHeader = 3 * 1024

// handler implements http.Handler.
type handler struct {
	directory lookup.Directory
	place     Place
	opts      Options
	secret    [sha256.Size]byte
}

// New makes a handler.
func New(d lookup.Directory, place Place, o Options) http.Handler {
	if o.Attempts == 0 {
		o.Attempts = 3
	}
	if o.Wait == 0 {
		o.Wait = 3 * time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = func(string, string, netip.Addr, lookup.Answer, error) {}
	}
	return &handler{directory: d, place: place, opts: o, secret: sha256.Sum256([]byte(o.Secret))}
}

// ServeHTTP answers one request.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.opts.Secret != "" {
		shown := sha256.Sum256([]byte(r.Header.Get("Auth-Key")))
		if subtle.ConstantTimeCompare(shown[:], h.secret[:]) != 1 {
			// nginx takes this for "not now", and says so to its client.
			http.Error(w, "wrong Auth-Key", http.StatusForbidden)
			return
		}
	}
	q, bad := readQuestion(r.Header, h.opts.DefaultDomain)
	if bad == "" && q.method == "none" && !h.opts.Anonymous {
		bad = "authentication required"
	}
	if bad != "" {
		h.answer(w, q, reply{text: bad, code: q.code(badRequest)})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.opts.Timeout)
	defer cancel()
	account, err := h.ask(ctx, q)
	answer := lookup.AnswerOf(err)
	h.opts.Log(q.user, q.protocol, q.client, answer, err)
	if answer != lookup.AnswerFound {
		h.answer(w, q, h.refusal(q, answer))
		return
	}
	if why := q.forbidden(account.Status); why != "" {
		h.answer(w, q, reply{text: why, code: q.code(forbidden)})
		return
	}
	server, err := h.place(ctx, q.protocol, account.Home)
	if err != nil || !server.IsValid() {
		h.opts.Log(q.user, q.protocol, q.client, lookup.AnswerUnavailable, err)
		h.answer(w, q, h.refusal(q, lookup.AnswerUnavailable))
		return
	}
	h.answer(w, q, reply{text: "OK", server: server, user: account.Name})
}

// ask asks the directory.
func (h *handler) ask(ctx context.Context, q question) (lookup.Account, error) {
	switch {
	case q.method == "none" && q.user == "":
		return lookup.Account{}, lookup.ErrAbsent // a name that no account can have
	case q.method == "none":
		return h.directory.Lookup(ctx, q.user)
	case q.user == "" || q.password == "":
		return lookup.Account{}, lookup.ErrRejected
	}
	return h.directory.Check(ctx, lookup.Credentials{Name: q.user, Password: q.password, Client: q.client, Protocol: q.word()})
}

// reply is an answer to nginx.
type reply struct {
	text   string // Auth-Status
	code   string // Auth-Error-Code, for smtp
	wait   time.Duration
	server netip.AddrPort
	user   string
}

// refusal chooses the words of "no" and of "not now".
func (h *handler) refusal(q question, answer lookup.Answer) reply {
	if answer == lookup.AnswerUnavailable {
		return reply{text: q.text(unavailable), code: q.code(unavailable)}
	}
	if q.method == "none" {
		return reply{text: q.text(noUser), code: q.code(noUser)}
	}
	r := reply{text: q.text(rejected), code: q.code(rejected)}
	if q.attempt < h.opts.Attempts {
		r.wait = h.opts.Wait // without it nginx closes the connection
	}
	return r
}

// answer writes a reply. The body is ignored by nginx.
func (h *handler) answer(w http.ResponseWriter, q question, r reply) {
	set := w.Header()
	set.Set("Auth-Status", r.text)
	if r.code != "" {
		set.Set("Auth-Error-Code", r.code)
	}
	if seconds := int(r.wait / time.Second); seconds > 0 {
		set.Set("Auth-Wait", strconv.Itoa(seconds))
	}
	if r.server.IsValid() {
		// nginx reads an address as it stands in a connect call: no brackets,
		// no zone.
		set.Set("Auth-Server", r.server.Addr().Unmap().WithZone("").String())
		set.Set("Auth-Port", strconv.Itoa(int(r.server.Port())))
	}
	if r.user != "" && q.method != "none" && r.user != q.typed && !strings.ContainsAny(r.user, " %\r\n") {
		set.Set("Auth-User", r.user)
	}
	set.Set("Content-Length", "0")
	w.WriteHeader(http.StatusOK)
}
