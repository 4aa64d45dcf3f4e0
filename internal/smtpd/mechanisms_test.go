package smtpd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"switchyard/internal/wire"
)

// mechanist is a Session with a mechanism of its own: the client says its word
// three times.
type mechanist struct {
	loginFake
	mechanisms []string
}

func (m *mechanist) Mechanisms() []string { return m.mechanisms }
func (m *mechanist) Offers() []string     { return []string{"8BITMIME", "SIZE 7"} }

func (m *mechanist) Exchange(_ context.Context, mechanism string, next func([]byte) ([]byte, error)) error {
	var words []string
	for i := range 3 {
		challenge := ""
		if i > 0 {
			challenge = fmt.Sprintf("word %d", i)
		}
		word, err := next([]byte(challenge))
		if err != nil {
			m.note("broken: %v", err)
			return NewReply(235, "2.7.0", "a lie") // it is not for the session to say
		}
		words = append(words, string(word))
	}
	m.note("%s %q", mechanism, words)
	switch words[2] {
	case "malformed":
		return fmt.Errorf("%w: test", wire.ErrSASL)
	case "wrong":
		return NewReply(535, "5.7.8", "no")
	}
	return nil
}

// TestMechanist: a session's own mechanisms are offered, run and answered, and
// what breaks an exchange is answered by the dialogue itself.
func TestMechanist(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		log    []string
	}{
		"offers": {`
			S: 220 *
			C: EHLO x
			S: 250-mx.test
			S: 250-8BITMIME
			S: 250-SIZE 7
			S: 250-AUTH THRICE
			S: 250-XCLIENT *
			S: 250 XPIPELOGIN
			C: QUIT
			S: 221 *`, nil},
		"with an initial response": {login + `
			C: AUTH THRICE YQ==
			S: 334 d29yZCAx
			C: Yg==
			S: 334 d29yZCAy
			C: Yw==
			S: 235 *
			C: QUIT
			S: 221 *`, []string{`THRICE ["a" "b" "c"]`}},
		"without": {login + `
			C: AUTH thrice
			S: 334 *
			C: YQ==
			S: 334 d29yZCAx
			C: Yg==
			S: 334 d29yZCAy
			C: d3Jvbmc=
			S: 535 5.7.8 no
			C: QUIT
			S: 221 *`, []string{`THRICE ["a" "b" "wrong"]`}},
		"broken": {login + `
			C: AUTH THRICE
			S: 334 *
			C: *
			S: 501 5.7.0 *
			C: AUTH THRICE !!
			S: 501 5.5.2 *
			C: AUTH THRICE =
			S: 334 d29yZCAx
			C: Yg==
			S: 334 d29yZCAy
			C: bWFsZm9ybWVk
			S: 501 5.5.2 *
			C: AUTH PLAIN AGIAc2VjcmV0
			S: 504 5.5.4 *
			C: QUIT
			S: 221 *`, []string{"broken: authentication cancelled", "broken: malformed SASL message: not base64", `THRICE ["" "b" "malformed"]`}},
	} {
		t.Run(name, func(t *testing.T) {
			m := &mechanist{mechanisms: []string{"THRICE"}}
			m.trusts = name == "offers"
			p := start(t, loginOptions, func(c *Conn) Session { m.conn = c; return m })
			p.run(c.script)
			if err := p.result(); err != nil {
				t.Errorf("ended with %v", err)
			}
			if !slices.Equal(m.log, c.log) {
				t.Errorf("got %q, want %q", m.log, c.log)
			}
		})
	}
}

// TestNoMechanism: AUTH is not offered when a session has none.
func TestNoMechanism(t *testing.T) {
	m := &mechanist{}
	p := start(t, loginOptions, func(c *Conn) Session { m.conn = c; return m })
	p.run(`
		S: 220 *
		C: EHLO x
		S: 250-mx.test
		S: 250-8BITMIME
		S: 250 SIZE 7
		C: AUTH THRICE
		S: 538 *
		C: QUIT
		S: 221 *`)
	if err := p.result(); err != nil && !errors.Is(err, ErrMistakes) {
		t.Errorf("ended with %v", err)
	}
}
