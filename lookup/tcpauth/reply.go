package tcpauth

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
)

// Kind is the first word of a reply.
type Kind string

// The kinds. OK, Err and Dead end an answer; Data lines come before an OK.
const (
	OK   Kind = "+OK"
	Data Kind = "+DATA"
	Err  Kind = "-ERR"
	Dead Kind = "-DEAD"
)

// maxReason bounds an -ERR or -DEAD line: the protocol asks for less than 100
// bytes.
const maxReason = 99

// ErrGarbage says that a reply is not one, or not one to what was asked. The
// connection that it came from cannot be trusted any more.
var ErrGarbage = errors.New("garbled reply")

// Reply is one line of an answer.
type Reply struct {
	Kind Kind
	Text string
}

// Line writes the reply without its line end. The text of -ERR and -DEAD is
// cut to what the protocol allows; control characters and more than maxLine
// bytes are refused.
func (r Reply) Line() (string, error) {
	text := r.Text
	if netwin.HasControl(text) {
		return "", netwin.Refuse("control character in a reply")
	}
	if r.Kind == Err || r.Kind == Dead {
		text = cut(text, maxReason-len(r.Kind)-1)
	}
	if text != "" {
		text = " " + text
	}
	if len(r.Kind)+len(text) > maxLine {
		return "", netwin.Refuse("the reply is longer than %d bytes", maxLine)
	}
	return string(r.Kind) + text, nil
}

// cut shortens a text to at most n bytes, at a character's end.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// ParseReply reads a reply without its line end. The error never shows the
// line.
func ParseReply(line string) (Reply, error) {
	kind, text, _ := strings.Cut(line, " ")
	r := Reply{Kind: Kind(kind), Text: text}
	switch r.Kind {
	case OK, Data, Err, Dead:
	default:
		return Reply{}, fmt.Errorf("%w: it begins with none of +OK, +DATA, -ERR, -DEAD", ErrGarbage)
	}
	if netwin.HasControl(text) {
		return Reply{}, fmt.Errorf("%w: it has a control character", ErrGarbage)
	}
	return r, nil
}

// accountReply is the answer to a lookup or a check:
//
//	+OK user droppath uid label="value" …
//
// The word config in the place of the path means "where your own configuration
// says", and the uid is 0 where there are none. Errors: RefusedError for a
// record that the grammar cannot carry.
func accountReply(a lookup.Account) (Reply, error) {
	labels := netwin.Labels(a)
	if err := netwin.CheckLabels(labels); err != nil {
		return Reply{}, err
	}
	b, err := appendName(nil, a.Name)
	if err != nil {
		return Reply{}, err
	}
	b = append(b, " config 0"...)
	return Reply{Kind: OK, Text: string(appendLabels(b[1:], labels))}, nil
}

// ParseAccount reads the text of a reply to a lookup or a check, from any
// server: user droppath uid label="value" … The uid may be missing where no
// labels follow. It must be about the account that was asked for. Errors:
// ErrGarbage, which never shows the text.
func ParseAccount(text, asked string) (lookup.Account, error) {
	user, rest, _ := strings.Cut(text, " ")
	if name, err := lookup.CleanName(user, ""); err != nil || name != asked {
		return lookup.Account{}, fmt.Errorf("%w: it is about another account", ErrGarbage)
	}
	path, rest, _ := strings.Cut(rest, " ")
	uid, rest, _ := strings.Cut(rest, " ")
	if strings.ContainsAny(path, `"=`) || strings.ContainsAny(uid, `"=`) {
		return lookup.Account{}, fmt.Errorf("%w: labels where path and uid should be", ErrGarbage)
	}
	labels, err := netwin.ParseLabels(rest)
	if err != nil {
		return lookup.Account{}, fmt.Errorf("%w: %v", ErrGarbage, err)
	}
	account, err := netwin.Account(asked, labels)
	if err != nil {
		return lookup.Account{}, fmt.Errorf("%w: %v", ErrGarbage, err)
	}
	return account, nil
}

// searchReply ends the answer to a search.
func searchReply(found, total int) Reply {
	return Reply{Kind: OK, Text: fmt.Sprintf("Search Complete %d items found out of %d", found, total)}
}

// ParseFound reads the numbers in the text that ends a search; from a server
// that words it otherwise they are -1.
func ParseFound(text string) (found, total int) {
	var extra string
	n, _ := fmt.Sscanf(text, "Search Complete %d items found out of %d%s", &found, &total, &extra)
	if n != 2 || found < 0 || total < 0 {
		return -1, -1
	}
	return found, total
}

// The answer to version names the product, its version and the extensions
// that this server knows. An old client never looks at it.
const (
	product         = "switchyard"
	extEncoded      = "encoded" // xcheck and xset
	extTagged       = "tagged"  // many requests on one connection
	extFeed         = "feed"    // a stream of changes
	extSCRAM        = "scram"   // xkeys and xkeymechs, on this connection
	protocolVersion = 1
)

// versionReply has the extensions, and behind them words in the form
// name=value that say how the server is, for people.
func versionReply(version string, extensions, state []string) Reply {
	words := []string{product, cleanVersion(version), strconv.Itoa(protocolVersion)}
	words = append(words, extensions...)
	for _, w := range state {
		if carriable("", w, true) == nil {
			words = append(words, w)
		}
	}
	return Reply{Kind: OK, Text: strings.Join(words, " ")}
}

// cleanVersion makes a version one word.
func cleanVersion(v string) string {
	if v == "" || carriable("", v, true) != nil || len(v) > 100 {
		return "unknown"
	}
	return v
}

// extensions is what a server told about itself.
type extensions struct {
	version string // its whole answer to version
	encoded bool
	tagged  bool
	feed    bool
	scram   bool
}

func parseVersion(text string) extensions {
	ext := extensions{version: text}
	word := strings.Split(text, " ")
	if len(word) < 3 || word[0] != product {
		return ext
	}
	for _, w := range word[3:] {
		switch w {
		case extEncoded:
			ext.encoded = true
		case extTagged:
			ext.tagged = true
		case extFeed:
			ext.feed = true
		case extSCRAM:
			ext.scram = true
		}
	}
	return ext
}
