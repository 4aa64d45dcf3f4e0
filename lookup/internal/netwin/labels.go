// Package netwin is what NetWin's user database files and its authent protocol
// have in common: label="value" pairs, what they mean for an account, and the
// error for what the grammar cannot carry.
//
// The grammar has no escapes. A label has no space and no quote, a value no
// quote and no control character; anything else is refused before it is
// written, and never bent into shape.
package netwin

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"switchyard/lookup"
)

// The bounds of a record. A line of the protocol or of a file is never longer
// than MaxLine without its line end.
const (
	MaxLine   = 64 << 10
	MaxRecord = 32 << 10 // the labels of one account, as written
	MaxLabels = 256
	maxLabel  = 64
)

// NoPassword stands where a password would, for "leave it as it is". It is
// never a password.
const NoPassword = "(NULL)"

// RefusedError says that what was asked can never be done, and why. It is
// neither a "not now" nor an answer about an account. The reason holds no
// secret.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

// Refuse makes a RefusedError.
func Refuse(format string, args ...any) error {
	return &RefusedError{Reason: fmt.Sprintf(format, args...)}
}

// CheckName says why no record can have a name: it is not clean, or it has a
// colon. Errors: RefusedError.
func CheckName(name string) error {
	clean, err := lookup.CleanName(name, "")
	switch {
	case err != nil:
		return Refuse("%v", err)
	case clean != name:
		return Refuse("the name %.80q is not in lower case", name)
	case strings.IndexByte(name, ':') >= 0:
		return Refuse("the name %.80q has a colon, which a record cannot carry", name)
	}
	return nil
}

// CheckLabels says why a set of labels cannot be carried. Labels are lower
// case. Errors: RefusedError.
func CheckLabels(labels map[string]string) error {
	if len(labels) > MaxLabels {
		return Refuse("%d labels, at most %d can be kept", len(labels), MaxLabels)
	}
	size := 0
	for label, value := range labels {
		if err := checkLabel(label); err != nil {
			return err
		}
		if strings.IndexByte(value, '"') >= 0 {
			return Refuse("the value of %s has a quote", label)
		}
		if HasControl(value) {
			return Refuse("the value of %s has a control character", label)
		}
		size += len(label) + len(value) + len(` =""`)
	}
	if size > MaxRecord {
		return Refuse("the labels need %d bytes, at most %d can be kept", size, MaxRecord)
	}
	return nil
}

func checkLabel(label string) error {
	switch {
	case label == "":
		return Refuse("a label is empty")
	case len(label) > maxLabel:
		return Refuse("a label is longer than %d bytes", maxLabel)
	case strings.ContainsAny(label, ` "=:`) || HasControl(label):
		return Refuse("a label has a space, quote, colon, = or control character")
	case label != strings.ToLower(label):
		return Refuse("a label is not in lower case")
	}
	return nil
}

// HasControl reports whether s has an ASCII control character.
func HasControl(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return true
		}
	}
	return false
}

// AppendLabels writes labels in the order of their names, with a space between
// two of them. They have been through CheckLabels.
func AppendLabels(dst []byte, labels map[string]string) []byte {
	for i, label := range slices.Sorted(maps.Keys(labels)) {
		if i > 0 {
			dst = append(dst, ' ')
		}
		dst = append(dst, label...)
		dst = append(dst, '=', '"')
		dst = append(dst, labels[label]...)
		dst = append(dst, '"')
	}
	return dst
}

// ParseLabels reads label="value" pairs with spaces between them. Values
// without a space may stand without quotes, as some modules write tohost=host.
// Labels become lower case. A label that is there twice is an error: nobody
// could say which one counts. The result is never nil. Errors never show what
// stands where a label should: in a broken record it may be part of a hash.
func ParseLabels(s string) (map[string]string, error) {
	if len(s) > MaxLine {
		return nil, Refuse("the labels are longer than %d bytes", MaxLine)
	}
	if HasControl(s) {
		return nil, Refuse("the labels have a control character")
	}
	labels := make(map[string]string)
	for s = strings.TrimLeft(s, " "); s != ""; s = strings.TrimLeft(s, " ") {
		label, rest, found := strings.Cut(s, "=")
		if !found {
			return nil, Refuse(`something is not label="value"`)
		}
		label = strings.ToLower(label)
		if err := checkLabel(label); err != nil {
			return nil, err
		}
		value, rest, err := cutValue(label, rest)
		if err != nil {
			return nil, err
		}
		if _, twice := labels[label]; twice {
			return nil, Refuse("the label %s is there twice", label)
		}
		if len(labels) == MaxLabels {
			return nil, Refuse("more than %d labels", MaxLabels)
		}
		labels[label] = value
		s = rest
	}
	return labels, nil
}

// cutValue takes a value, quoted or not, off the front of s.
func cutValue(label, s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		value, rest, _ = strings.Cut(s, " ")
		if strings.IndexByte(value, '"') >= 0 {
			return "", "", Refuse("the value of %s has a quote inside", label)
		}
		return value, rest, nil
	}
	value, rest, found := strings.Cut(s[1:], `"`)
	if !found {
		return "", "", Refuse("the value of %s has no closing quote", label)
	}
	if rest != "" && rest[0] != ' ' {
		return "", "", Refuse("the value of %s goes on behind its quote", label)
	}
	return value, rest, nil
}
