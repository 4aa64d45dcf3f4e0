package authent

import (
	"errors"
	"fmt"
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

// With makes a reply.
func (k Kind) With(text string) Reply { return Reply{Kind: k, Text: text} }

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
// cut to what the protocol allows; control characters and more than netwin.MaxLine
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
	if len(r.Kind)+len(text) > netwin.MaxLine {
		return "", netwin.Refuse("the reply is longer than %d bytes", netwin.MaxLine)
	}
	return string(r.Kind) + text, nil
}

// Reason is the text, no longer than that of -ERR and -DEAD may be: for logs and
// errors, whatever a server sends.
func (r Reply) Reason() string { return cut(r.Text, maxReason) }

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

// AccountReply is the answer to a lookup or a check:
//
//	+OK user droppath uid label="value" …
//
// The word config in the place of the path means "where your own configuration
// says", and the uid is 0 where there are none. Errors: RefusedError for a
// record that the grammar cannot carry.
func AccountReply(a lookup.Account) (Reply, error) {
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

// SearchReply ends the answer to a search.
func SearchReply(found, total int) Reply {
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
