package netwin

import "strings"

// Canonical reports whether labels are written exactly as AppendLabels writes
// a set that passes CheckLabels, in ASCII: such a text can be kept as it is,
// without being taken apart. false says nothing: ParseLabels decides.
func Canonical(labels string) bool {
	if len(labels) >= MaxRecord {
		return false
	}
	last := ""
	for n := 0; labels != ""; n++ {
		if n == MaxLabels {
			return false
		}
		label, rest, ok := cutLabel(labels)
		if !ok || label <= last {
			return false
		}
		end := 0
		for end < len(rest) && rest[end] != '"' {
			if rest[end] < ' ' || rest[end] == 0x7f {
				return false
			}
			end++
		}
		if end == len(rest) {
			return false
		}
		labels, last = rest[end+1:], label
		if labels != "" {
			if labels[0] != ' ' || len(labels) == 1 {
				return false
			}
			labels = labels[1:]
		}
	}
	return true
}

// cutLabel takes label=" off the front.
func cutLabel(s string) (label, rest string, ok bool) {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '=':
			ok = i > 0 && i <= maxLabel && i+1 < len(s) && s[i+1] == '"'
			if !ok {
				return "", "", false
			}
			return s[:i], s[i+2:], true
		case c <= ' ' || c >= 0x7f || c == '"' || c == ':' || c >= 'A' && c <= 'Z':
			return "", "", false
		}
	}
	return "", "", false
}

// Value finds a label's value in a text that AppendLabels wrote; the empty word
// when the label is not there.
func Value(labels, label string) string {
	for labels != "" {
		name, rest, _ := strings.Cut(labels, `="`)
		value, rest, _ := strings.Cut(rest, `"`)
		if name == label {
			return value
		}
		labels = strings.TrimPrefix(rest, " ")
	}
	return ""
}
