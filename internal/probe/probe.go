// Package probe is what a proxy and a backendd say to each other to find out
// whether a node serves, without a user: the words of a login that opens no
// mailbox. Both tiers speak it; it knows neither.
//
// A node that offers Capability to a proxy, before login, answers a proxy's
// login for User. The proxy logs in with its own name and secret (SASL PLAIN),
// so that all that a user's login needs of the node is tried: the connection,
// TLS, the proxy's network and its secret. The answer is a refusal that begins
// with the response code of an Answer:
//
//	IMAP         NO [X-PROBE READY] serves
//	POP3         -ERR [X-PROBE READY] serves
//	SMTP, LMTP   454 4.7.0 [X-PROBE READY] serves
//	ManageSieve  NO "[X-PROBE READY] serves"
//
// A session in which that was asked may end like any other, or ask again.
package probe

import "strings"

// Capability is what a node that can be asked offers to a proxy: in CAPABILITY,
// CAPA, EHLO, LHLO and ManageSieve's list.
const Capability = "X-PROBE"

// User is the authorisation identity of the question. It is nobody's name: it
// has no local part.
const User = "@probe"

// Word is how a node is.
type Word string

// The words. What is none of them means NotReady.
const (
	Ready    Word = "READY"     // it serves logins
	NotReady Word = "NOT-READY" // it cannot serve for now, for the reason given: its data are old, say
	Drain    Word = "DRAIN"     // it serves, and asks for no new sessions
)

// Answer is a node's word, and its reason in words for people.
type Answer struct {
	Word Word
	Text string
}

// maxText bounds the text of an answer.
const maxText = 200

// String is the answer as it stands on the wire, on one line.
func (a Answer) String() string { return "[" + a.Code() + "] " + clean(a.Text) }

// Code is the answer's response code, without brackets.
func (a Answer) Code() string { return Capability + " " + string(a.word()) }

func (a Answer) word() Word {
	switch a.Word {
	case Ready, Drain:
		return a.Word
	}
	return NotReady
}

// Parse reads an answer at the start of a refusal's text. It reports false for
// any other text.
func Parse(text string) (Answer, bool) {
	if len(text) <= len(Capability)+2 || text[0] != '[' || !strings.EqualFold(text[1:len(Capability)+1], Capability) || text[len(Capability)+1] != ' ' {
		return Answer{}, false
	}
	word, rest, found := strings.Cut(text[len(Capability)+2:], "]")
	if !found {
		return Answer{}, false
	}
	word, _, _ = strings.Cut(word, " ") // more may be said one day
	a := Answer{Word: Word(strings.ToUpper(word)), Text: clean(strings.TrimSpace(rest))}
	a.Word = a.word()
	return a, true
}

// clean makes text fit for a line and a log.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, text)
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "")
	}
	return text
}
