package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"switchyard/internal/daemon"
	"switchyard/internal/harness"
)

// lmtpListener is for a network of filters, and a login in clear for others. It takes
// connections to every address, since the cluster's own is not known yet.
const lmtpListener = `
[proxyd.lmtp]
networks = ["127.250.0.0/16"]
name = "filter"
secret = { file = "tcpauth.secret" }
[[proxyd.listen]]
protocol = "lmtp"
address = "0.0.0.0:0"
cleartext_login = true
`

// announced returns the cluster's own address of a listener that has chosen its port.
func (c *cluster) announced(t testing.TB, p *harness.Proxy, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.Spec.Dir, p.Name+".ready"))
	if err != nil {
		t.Fatal(err)
	}
	var a daemon.Announcement
	if err := json.Unmarshal(text, &a); err != nil {
		t.Fatal(err)
	}
	own := slices.DeleteFunc(a.Listeners[name], func(address string) bool { return address == p.Addr[name] })
	if len(own) != 1 {
		t.Fatalf("%s announces %s", p.Name, text)
	}
	_, port, err := net.SplitHostPort(own[0])
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort(c.Spec.Host, port)
}

// filter opens a dialogue as a filter that has logged in.
func (c *cluster) filter(t testing.TB, address string) *talk {
	t.Helper()
	k := plain(t, address)
	k.wantReply("220")
	k.say("LHLO filter.example.test")
	k.wantReply("250")
	k.say("AUTH PLAIN %s", base64.StdEncoding.EncodeToString([]byte("\x00filter\x00"+c.Secret)))
	k.wantReply("235")
	return k
}

// TestLMTP: filters bring mail by LMTP, from their network or with their login, and
// hear of each recipient what its own backend says; others bring none.
func TestLMTP(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{Proxies: 1, ProxyExtra: lmtpListener})
	p := c.Proxies[0]
	address := c.announced(t, p, "lmtp")
	anna, bert, cora := c.account(t, "anna", "b1"), c.account(t, "bert", "b2"), c.account(t, "cora", "b2")
	both := newMessage("to both backends", 1500)

	t.Run("login", func(t *testing.T) {
		k := c.filter(t, address)
		k.say("MAIL FROM:<sender@example.org>")
		k.wantReply("250")
		for _, to := range []struct{ address, want string }{
			{anna.Name, "250"}, {"nobody@" + c.Spec.Domain, "550 5.1.1"}, {"x@elsewhere.example", "550 5.7.1"}, {bert.Name, "250"},
		} {
			k.say("RCPT TO:<%s>", to.address)
			k.wantReply(to.want)
		}
		k.say("DATA")
		k.wantReply("354")
		k.send(both.text + ".\r\n")
		k.wantReply("250")
		k.wantReply("250")
		k.logOut("lmtp")
		c.wantInbox(t, p, anna, both)
		c.wantInbox(t, p, bert, both)
		session := awaitLine(t, p.Log, "the filter's session", sessionOf("lmtp", ""))
		message := awaitLine(t, c.Backend("b2").Log, "the message", func(l line) bool { return l.Msg == "message" && l.Protocol == "lmtp" })
		if session.Session == "" || session.Session != message.Session {
			t.Errorf("the session is %q at the proxy and %q at the backend", session.Session, message.Session)
		}
	})
	t.Run("stranger", func(t *testing.T) {
		k := plain(t, address)
		k.wantReply("220")
		k.say("LHLO stranger.example")
		k.wantReply("250")
		k.say("MAIL FROM:<sender@example.org>")
		k.wantReply("530 5.7.0")
		k.say("AUTH PLAIN %s", base64.StdEncoding.EncodeToString([]byte("\x00filter\x00wrong")))
		k.wantReply("535 5.7.8")
		k.say("AUTH PLAIN %s", plainResponse(anna))
		k.wantReply("535 5.7.8")
	})
	t.Run("filters' network", func(t *testing.T) {
		k := newTalk(t, dialFrom(t, "127.250.0.1", address))
		if s := c.deliverer(k, cora.Name); !strings.HasPrefix(s, "250") {
			t.Errorf("from the filters' network: %s", s)
		}
	})
	t.Run("directory down", func(t *testing.T) {
		c.TCPAuth.Kill()
		k := c.filter(t, address)
		k.say("MAIL FROM:<sender@example.org>")
		k.wantReply("250")
		k.say("RCPT TO:<never-seen@%s>", c.Spec.Domain)
		k.wantReply("451 4.4.3")
		if err := c.StartDirectory(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("one backend down", func(t *testing.T) {
		m := newMessage("while b2 is down", 1500)
		k := c.filter(t, address)
		k.say("MAIL FROM:<sender@example.org>")
		k.wantReply("250")
		for _, a := range []harness.Account{anna, cora} {
			k.say("RCPT TO:<%s>", a.Name)
			k.wantReply("250")
		}
		c.Backend("b2").Kill()
		k.say("DATA")
		k.wantReply("354")
		k.send(m.text + ".\r\n")
		k.wantReply("250")
		k.wantReply("451")
		k.say("MAIL FROM:<sender@example.org>")
		k.wantReply("250")
		k.say("RCPT TO:<%s>", cora.Name)
		k.wantReply("451")
		if err := c.StartBackend(t.Context(), c.Backend("b2")); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the recipient who was put off", func() error {
			again := c.filter(t, address)
			defer again.conn.Close()
			again.say("MAIL FROM:<sender@example.org>")
			again.wantReply("250")
			again.say("RCPT TO:<%s>", cora.Name)
			if s := again.reply(); !strings.HasPrefix(s, "250") {
				return fmt.Errorf("still %s", s)
			}
			again.say("DATA")
			again.wantReply("354")
			again.send(m.text + ".\r\n")
			again.wantReply("250")
			return nil
		})
		c.wantInbox(t, p, anna, both, m)
		c.wantInbox(t, p, cora, m)
	})
	metrics, err := scrape(p.Addr["admin"])
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(metrics, `protocol="lmtp"`) {
		t.Error("no metric is about lmtp")
	}
}

// deliverer greets without a login, offers a recipient and returns the answer.
func (c *cluster) deliverer(k *talk, to string) string {
	k.t.Helper()
	k.wantReply("220")
	k.say("LHLO filter.example.test")
	k.wantReply("250")
	k.say("MAIL FROM:<sender@example.org>")
	k.wantReply("250")
	k.say("RCPT TO:<%s>", to)
	return k.reply()
}

// scrape reads a daemon's metrics.
func scrape(admin string) (string, error) {
	r, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return string(b), err
}
