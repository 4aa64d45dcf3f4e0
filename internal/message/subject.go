package message

import "strings"

// BaseSubject extracts the base subject of RFC 5256 §2.1 from a Subject field
// as it stands: without "Re:" and "Fwd:" in their forms, list tags and
// "(fwd)". reply reports whether something was taken away that makes the
// message a reply or a forward. The cost is in proportion to the length.
func BaseSubject(field string) (base string, reply bool) {
	s := strings.Join(strings.Fields(DecodeHeader(field)), " ")
	for {
		var cut bool
		s, cut = cutTrailers(s)
		reply = reply || cut
		s, cut = cutLeaders(s)
		reply = reply || cut
		inner, ok := cutPrefixFold(s, "[fwd:")
		if !ok || !strings.HasSuffix(inner, "]") {
			return s, reply
		}
		s, reply = inner[:len(inner)-1], true
	}
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// cutTrailers takes "(fwd)" and white space from the end.
func cutTrailers(s string) (string, bool) {
	forward := false
	for {
		s = strings.TrimRight(s, " ")
		n := len(s) - len("(fwd)")
		if n < 0 || !strings.EqualFold(s[n:], "(fwd)") {
			return s, forward
		}
		s, forward = s[:n], true
	}
}

// cutLeaders takes "Re:", "Fw:" and "Fwd:" with the tags before and in them,
// and then tags as long as something remains.
func cutLeaders(s string) (string, bool) {
	reply := false
	for {
		s = strings.TrimLeft(s, " ")
		// All tags are passed over at once: if no "Re:" follows the last one,
		// none follows an earlier one either.
		last, behind := "", s
		for {
			rest, ok := cutBlob(behind)
			if !ok {
				break
			}
			last, behind = behind, rest
		}
		if rest, ok := cutRefwd(behind); ok {
			s, reply = rest, true
			continue
		}
		if behind == "" && last != "" {
			return last, reply // a tag is all there is
		}
		return behind, reply
	}
}

// cutBlob takes a tag in brackets and the white space behind it.
func cutBlob(s string) (string, bool) {
	if s == "" || s[0] != '[' {
		return s, false
	}
	end := strings.IndexAny(s[1:], "[]")
	if end < 0 || s[1+end] != ']' {
		return s, false
	}
	return strings.TrimLeft(s[end+2:], " "), true
}

// cutRefwd takes one "Re:", "Fw:" or "Fwd:", which may hold a tag.
func cutRefwd(s string) (string, bool) {
	rest := s
	for _, word := range []string{"re", "fwd", "fw"} {
		var ok bool
		if rest, ok = cutPrefixFold(s, word); ok {
			break
		}
	}
	if len(rest) == len(s) {
		return s, false
	}
	rest = strings.TrimLeft(rest, " ")
	rest, _ = cutBlob(rest)
	if !strings.HasPrefix(rest, ":") {
		return s, false
	}
	return rest[1:], true
}
