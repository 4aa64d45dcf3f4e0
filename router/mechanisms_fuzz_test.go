package router_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/routertest"
	"switchyard/router/sasl"
	"switchyard/router/upstream"
)

// fuzzed is the order in which fuzzing chooses protocols.
var fuzzed = []string{"imap", "pop3", "submission", "managesieve"}

// FuzzMechanisms: whatever a client says, with every mechanism offered, nobody is
// let in who cannot prove to be somebody, no backend is even asked, and the
// session ends.
func FuzzMechanisms(f *testing.F) {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for i, name := range fuzzed {
		auth := map[string]string{"imap": "a AUTHENTICATE ", "pop3": "AUTH ", "submission": "EHLO c\r\nAUTH ", "managesieve": "AUTHENTICATE "}[name]
		quote := func(s string) string {
			if name == "managesieve" {
				return `"` + s + `"`
			}
			return s
		}
		for _, exchange := range [][]string{
			{"SCRAM-SHA-256", b64("n,,n=anna,r=x"), b64("c=biws,r=x,p=AAAA"), ""},
			{"SCRAM-SHA-256", b64("p=tls-exporter,,n=anna,r=x"), "*"},
			{"OAUTHBEARER", b64("n,a=anna@example.test,\x01auth=Bearer wrong\x01\x01"), "AQ=="},
			{"XOAUTH2", b64("user=anna@example.test\x01auth=Bearer away\x01\x01")},
			{"PLAIN", b64("bert\x00anna*admin\x00x")},
			{"EXTERNAL", "="},
		} {
			lines := auth + quote(exchange[0]) + " " + quote(exchange[1]) + "\r\n"
			for _, answer := range exchange[2:] {
				lines += quote(answer) + "\r\n"
			}
			f.Add(byte(i), []byte(lines))
		}
	}
	var dials atomic.Int64
	pipes := make([]*routertest.Pipes, len(fuzzed))
	for i, name := range fuzzed {
		d := dialects[name]
		dir := &keyedDirectory{routertest.NewDirectory(), map[string]lookup.Keys{}, true}
		o := sasl.Options{SCRAM: true, Secret: saslSecret, Tokens: issued{}, Certificate: sasl.ByEmail}
		dir.Add(anna(), "a password that is not guessed")
		dir.keys[anna().Name] = o.Invent(sasl.SCRAMSHA256, "keys that nobody has a password for")
		pipes[i] = routertest.NewPipes()
		routertest.Start(f, routertest.Config{
			Protocol: d.protocol(), Directory: dir, Net: pipes[i],
			Listener: router.Listener{AllowCleartextLogin: true},
			Options:  router.Options{DefaultDomain: "example.test", SASL: o},
			Backends: []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{{Name: "b1a", Services: map[upstream.Service]upstream.Endpoint{d.service: {Address: "192.0.2.1:1"}}}}}},
			Upstream: upstream.Options{Dial: func(context.Context, string, string) (net.Conn, error) {
				dials.Add(1)
				return nil, context.Canceled
			}},
		})
	}
	f.Fuzz(func(t *testing.T, which byte, in []byte) {
		out := pipes[int(which)%len(fuzzed)].Say(in, true)
		if n := dials.Load(); n != 0 {
			t.Fatalf("%q: %d logins went on to a backend: %q", in, n, out)
		}
	})
}

// FuzzRelay: whatever a backend says to an exchange that is relayed to it, the
// session ends, and only a backend's own yes lets the client in.
func FuzzRelay(f *testing.F) {
	for i, name := range fuzzed {
		for _, said := range map[string][]string{
			"imap":        {"* OK [CAPABILITY SASL-IR AUTH=SCRAM-SHA-256] x\r\n+ cj14\r\n+ dj14\r\nL OK in\r\n", "* OK [CAPABILITY AUTH=SCRAM-SHA-256] x\r\n+ \r\n+ \r\nL NO [AUTHENTICATIONFAILED] no\r\n", "* OK [CAPABILITY SASL-IR AUTH=SCRAM-SHA-256]\r\nL NO [X-OWNER b1b] x\r\n"},
			"pop3":        {"+OK x\r\n+ cj14\r\n+ dj14\r\n+OK in\r\n", "+OK x\r\n-ERR [SYS/TEMP/OWNER] b1b\r\n"},
			"submission":  {"220 x\r\n250-x\r\n250 AUTH SCRAM-SHA-256\r\n334 cj14\r\n334 dj14\r\n235 in\r\n", "220 x\r\n250-x\r\n250 AUTH SCRAM-SHA-256\r\n535 5.7.8 no\r\n"},
			"managesieve": {"\"SASL\" \"SCRAM-SHA-256\"\r\nOK\r\n\"cj14\"\r\nOK (SASL \"dj14\") \"in\"\r\n", "\"SASL\" \"SCRAM-SHA-256\"\r\nOK\r\nNO (TRYLATER/OWNER) \"b1b\"\r\n"},
		}[name] {
			f.Add(byte(i), []byte(said))
		}
	}
	var said atomic.Pointer[[]byte]
	pipes := make([]*routertest.Pipes, len(fuzzed))
	for i, name := range fuzzed {
		d := dialects[name]
		dir := routertest.NewDirectory()
		dir.Add(anna(), "x")
		pipes[i] = routertest.NewPipes()
		routertest.Start(f, routertest.Config{
			Protocol: d.protocol(), Directory: dir, Net: pipes[i],
			Listener: router.Listener{AllowCleartextLogin: true},
			Options:  router.Options{DefaultDomain: "example.test", SASL: sasl.Options{SCRAM: true, Secret: saslSecret}},
			Backends: []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{{Name: "b1a", Services: map[upstream.Service]upstream.Endpoint{d.service: {Address: "192.0.2.1:1"}}}}}},
			Upstream: upstream.Options{Mark: time.Nanosecond, Dial: routertest.Talk(func() []byte { return *said.Load() })},
			Wrap:     func(up router.Upstream) router.Upstream { return relaying{up} },
		})
	}
	f.Fuzz(func(t *testing.T, which byte, backend []byte) {
		said.Store(&backend)
		i := int(which) % len(fuzzed)
		in := map[string]string{
			"imap":        "a AUTHENTICATE SCRAM-SHA-256 biwsbj1hbm5hLHI9eA==\r\nQQ==\r\n\r\n",
			"pop3":        "AUTH SCRAM-SHA-256 biwsbj1hbm5hLHI9eA==\r\nQQ==\r\n\r\n",
			"submission":  "EHLO c\r\nAUTH SCRAM-SHA-256 biwsbj1hbm5hLHI9eA==\r\nQQ==\r\n\r\n",
			"managesieve": "AUTHENTICATE \"SCRAM-SHA-256\" \"biwsbj1hbm5hLHI9eA==\"\r\n\"QQ==\"\r\n\"\"\r\n",
		}[fuzzed[i]]
		out := pipes[i].Say([]byte(in), true)
		yes := map[string]string{"imap": "\r\na OK", "pop3": "\r\n+OK", "submission": "\r\n235", "managesieve": ""}[fuzzed[i]]
		own := map[string]string{"imap": "L OK", "pop3": "+OK", "submission": "235"}[fuzzed[i]]
		if yes != "" && bytes.Contains(out, []byte(yes)) && !strings.Contains(strings.ToUpper(string(backend)), own) {
			t.Fatalf("the backend said %q, and the client heard %q", backend, out)
		}
	})
}

// relaying is an Upstream whose backends are known to relay.
type relaying struct{ router.Upstream }

func (relaying) Offers(string, upstream.Service) (upstream.Offer, bool) {
	return upstream.Offer{"AUTH=" + sasl.SCRAMSHA256: ""}, true
}
