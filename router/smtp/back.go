package smtp

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"switchyard/internal/origin"
	"switchyard/internal/smtpd"
	"switchyard/internal/wire"
	"switchyard/router"
	"switchyard/router/upstream"

	"go.uber.org/zap"
)

// The bounds of what a backend may say.
const (
	maxReplyLine  = 2048
	maxReplyLines = 100
)

// maxInitial is the longest AUTH line with an initial response (RFC 4954 §4,
// RFC 5321 §4.5.3.1.4); a longer response waits to be asked for.
const maxInitial = 510

// back speaks SMTP or LMTP with a backend.
type back struct {
	*router.Back
	s      *router.Session
	hail   string         // EHLO or LHLO
	offers upstream.Offer // keywords in capitals, with their parameters; read only
}

// greeting reads the greeting and starts TLS, and learns what the server offers.
func (b *back) greeting(ctx context.Context) error {
	if err := b.expect("greeting", 220); err != nil {
		return err
	}
	if err := b.introduce(); err != nil {
		return err
	}
	if b.WantsStartTLS() {
		return b.startTLS(ctx)
	}
	return nil
}

// identify says who the client is, behind greeting. With a server of ours, all
// that is left up to the login goes out in one write: login is an AUTH line with
// all it takes, or empty. Its answer is returned where it was sent along; nil means
// that it was not.
func (b *back) identify(o origin.Origin, login string) (*smtpd.Reply, error) {
	args := o.XCLIENT(origin.SMTP, strings.Fields(b.offers["XCLIENT"]))
	if !b.has("XCLIENT") || args == "" {
		return nil, nil
	}
	if !b.has(smtpd.PipeLogin) || !b.has("PIPELINING") {
		r, err := b.ask("XCLIENT " + args)
		if err != nil || !b.identified(r) {
			return nil, err
		}
		return nil, b.introduce() // the server is back at its greeting
	}
	lines := []string{"XCLIENT " + args, b.hail + " " + b.s.Hostname()}
	if login != "" {
		lines = append(lines, login)
	}
	replies, err := b.exchange(lines...)
	if err != nil {
		return nil, err
	}
	b.identified(replies[0])
	if err := b.introduced(replies[1]); err != nil || login == "" {
		return nil, err
	}
	return &replies[2], nil
}

// identified reads the answer to XCLIENT. A refusal is worth a warning, but no
// failure.
func (b *back) identified(r smtpd.Reply) bool {
	if r.Code != 220 {
		b.s.Log.Warn("backend refuses the client's identity", zap.String("node", b.Node), zap.String("reason", r.Error()))
	}
	return r.Code == 220
}

// startTLS never goes on in clear. What was offered before counts for nothing.
func (b *back) startTLS(ctx context.Context) error {
	if _, offered := b.offers["STARTTLS"]; !offered {
		return b.blame("backend does not offer STARTTLS: give it a certificate, or change the node's tls", "STARTTLS not offered")
	}
	if err := b.command("STARTTLS", 220); err != nil {
		return err
	}
	if err := b.StartTLS(ctx); err != nil {
		return b.failed("TLS handshake", err)
	}
	return b.introduce()
}

// introduce says EHLO or LHLO and learns what the server offers.
func (b *back) introduce() error {
	r, err := b.ask(b.hail + " " + b.s.Hostname())
	if err != nil {
		return err
	}
	return b.introduced(r)
}

func (b *back) introduced(r smtpd.Reply) error {
	if r.Code != 250 {
		return b.refused(b.hail, r)
	}
	_, list, _ := strings.Cut(r.Text, "\n") // the first line is the server's name
	b.offers = b.Parse(list, parseOffers)
	return nil
}

// parseOffers reads the lines behind the first of the answer to EHLO or LHLO.
func parseOffers(list string) upstream.Offer {
	offers := make(upstream.Offer)
	for line := range strings.SplitSeq(list, "\n") {
		if keyword, params, _ := strings.Cut(line, " "); keyword != "" {
			offers[strings.ToUpper(keyword)] = params
		}
	}
	return offers
}

func (b *back) has(keyword string) bool { return b.offers.Has(keyword) }

// plainLine is AUTH PLAIN with the message as its initial response; empty when that
// is too long for a line.
func plainLine(message []byte) string {
	line := "AUTH PLAIN " + wire.EncodeSASL(message)
	if len(line) > maxInitial {
		return ""
	}
	return line
}

// proxyLogin is what the proxy logs in with as itself.
func (b *back) proxyLogin() ([]byte, error) {
	name, secret := b.Login()
	message, err := wire.Plain{Authcid: name, Password: secret}.Message()
	if err != nil {
		return nil, fmt.Errorf("log in as the proxy: %w", err)
	}
	return message, nil
}

// authenticate logs in with a PLAIN message. The answer is the caller's to judge.
func (b *back) authenticate(message []byte) (smtpd.Reply, error) {
	if line := plainLine(message); line != "" {
		return b.ask(line)
	}
	return stepwise(b, "AUTH PLAIN", string(message))
}

// ask sends one line and reads the answer.
func (b *back) ask(line string) (smtpd.Reply, error) {
	replies, err := b.exchange(line)
	if err != nil {
		return smtpd.Reply{}, err
	}
	return replies[0], nil
}

// exchange sends lines, in one write when the server takes that, and reads an
// answer to each. When the connection fails half-way, those that were read are
// returned with the error.
func (b *back) exchange(lines ...string) (replies []smtpd.Reply, err error) {
	batch := b.has("PIPELINING")
	for _, line := range lines {
		b.Conn.WriteString(line)
		b.Conn.WriteString("\r\n")
		if batch {
			continue
		}
		r, err := b.reply(line)
		if err != nil {
			return replies, err
		}
		replies = append(replies, r)
	}
	for i := len(replies); i < len(lines); i++ {
		r, err := b.reply(lines[i])
		if err != nil {
			return replies, err
		}
		replies = append(replies, r)
	}
	return replies, nil
}

// command sends one line that has only one good answer.
func (b *back) command(line string, code int) error {
	b.Conn.WriteString(line + "\r\n")
	return b.expect(line, code)
}

func (b *back) expect(step string, code int) error {
	r, err := b.reply(step)
	if err == nil && r.Code != code {
		err = b.refused(step, r)
	}
	return err
}

// reply sends what is in the buffer and reads one reply.
func (b *back) reply(step string) (smtpd.Reply, error) {
	if err := b.Conn.Flush(); err != nil {
		return smtpd.Reply{}, b.failed(step, err)
	}
	r, err := readReply(b.Conn)
	if err != nil {
		return r, b.failed(step, err)
	}
	return r, nil
}

var errRubbish = errors.New("unexpected answer")

// readReply reads a reply of one line or more (RFC 5321 §4.2.1). The enhanced
// code is taken from the first line and out of all (RFC 2034 §4).
func readReply(conn *wire.Conn) (r smtpd.Reply, err error) {
	var text strings.Builder
	for n := range maxReplyLines {
		raw, err := conn.ReadLine(maxReplyLine)
		if err != nil {
			return smtpd.Reply{}, err
		}
		line := string(raw)
		code, last, words, ok := parseReplyLine(line)
		if !ok || n > 0 && code != r.Code {
			return smtpd.Reply{}, fmt.Errorf("%w %q", errRubbish, clip(line))
		}
		r.Code = code
		if enhanced, rest := cutEnhanced(code, words); enhanced != "" && (n == 0 || enhanced == r.Enhanced) {
			r.Enhanced, words = enhanced, rest
		}
		if last && n == 0 {
			r.Text = words
			return r, nil
		}
		if n > 0 {
			text.WriteByte('\n')
		}
		text.WriteString(words)
		if last {
			r.Text = text.String()
			return r, nil
		}
	}
	return smtpd.Reply{}, fmt.Errorf("%w: more than %d lines", errRubbish, maxReplyLines)
}

func parseReplyLine(line string) (code int, last bool, text string, ok bool) {
	if len(line) < 3 || strings.ContainsAny(line, "\r\x00") {
		return 0, false, "", false
	}
	code, err := strconv.Atoi(line[:3])
	if err != nil || code < 200 || code > 599 {
		return 0, false, "", false
	}
	switch {
	case len(line) == 3:
		return code, true, "", true
	case line[3] == ' ', line[3] == '-':
		return code, line[3] == ' ', line[4:], true
	}
	return 0, false, "", false
}

// cutEnhanced takes an enhanced status code from the start of a text. Its class
// is the code's own, or it is none (RFC 2034 §4).
func cutEnhanced(code int, text string) (enhanced, rest string) {
	if len(text) < len("2.0.0") || text[0] != byte('0'+code/100) || text[1] != '.' {
		return "", text
	}
	word, rest, _ := strings.Cut(text, " ")
	parts := strings.Split(word, ".")
	if len(parts) != 3 {
		return "", text
	}
	for _, part := range parts {
		if part == "" || len(part) > 3 || strings.Trim(part, "0123456789") != "" {
			return "", text
		}
	}
	return word, rest
}

func (b *back) failed(step string, err error) error {
	verb, _, _ := strings.Cut(step, " ") // never a secret
	return fmt.Errorf("%w: %s: %w", router.ErrBackend, verb, err)
}

func (b *back) refused(step string, r smtpd.Reply) error {
	return b.failed(step, fmt.Errorf("%w %q", errRubbish, clip(r.Error())))
}

// blame logs a mistake that only the operator can mend, with the way to mend
// it.
func (b *back) blame(message, reason string) error {
	b.s.Log.Error(message, zap.String("home", b.Backend), zap.String("node", b.Node), zap.String("reason", reason))
	return fmt.Errorf("%w: %w", router.ErrOperator, errors.New(reason))
}

// noProxy blames a refused login: it is the proxy that the backend does not
// know, not the user.
func (b *back) noProxy(r smtpd.Reply) error {
	return b.blame("backend refuses the proxy's login: proxy name and secret must be the same on both, the proxy's address must be in the backend's proxy networks, and the connection must use TLS",
		"the proxy's login is refused: "+clip(r.Error()))
}

// clip shortens a backend's words for an error text.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
