package sieve

import (
	"net/mail"
	"strconv"
	"strings"
	"unicode/utf8"

	"switchyard/backend/sieve/syntax"
)

// text is a string of a script, which may have variables in it.
type text struct {
	source string
	parts  []part // nil: constant
}

// part is a piece of a text: itself, or a variable's value.
type part struct {
	literal  string
	variable string // in lower case; "": none
	match    int    // number of a match value; less than zero: none
}

func (t text) constant() bool { return t.parts == nil }

// text reads a string: encoded characters first (RFC 5228 §2.4.2.4), then
// variables (RFC 5229 §3).
func (c *compiler) text(at Pos, s string) (text, error) {
	if c.has("encoded-character") {
		var err error
		if s, err = decodeCharacters(at, s); err != nil {
			return text{}, err
		}
	}
	if !c.has("variables") || !strings.Contains(s, "${") {
		return text{source: s}, nil
	}
	t := text{source: s}
	for s != "" {
		before, rest, found := strings.Cut(s, "${")
		if !found {
			t.parts = append(t.parts, part{literal: s, match: -1})
			break
		}
		name, behind, closed := strings.Cut(rest, "}")
		p, ok := reference(name)
		switch {
		case closed && ok:
			if before != "" {
				t.parts = append(t.parts, part{literal: before, match: -1})
			}
			if p.match > 9 && p.variable == "" {
				return t, syntax.Errorf(at, "${%s}: there are nine match values", name)
			}
			t.parts = append(t.parts, p)
			s = behind
		default:
			// What is no reference stands for itself.
			t.parts = append(t.parts, part{literal: before + "${", match: -1})
			s = rest
		}
	}
	return t, nil
}

// reference reads what stands between the braces.
func reference(name string) (part, bool) {
	if n, err := strconv.Atoi(name); err == nil && n >= 0 {
		return part{match: n}, true
	}
	rest := strings.TrimPrefix(strings.ToLower(name), "global.")
	if !isVariable(rest) {
		return part{}, false
	}
	return part{variable: strings.ToLower(name), match: -1}, true
}

// isVariable follows RFC 5228's identifier.
func isVariable(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if (c < 'a' || c > 'z') && s[i] != '_' && (i == 0 || s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return s != ""
}

// in returns the text's value in a run.
func (t text) in(r *run) string {
	if t.constant() {
		return t.source
	}
	var b strings.Builder
	for _, p := range t.parts {
		switch {
		case p.match >= 0:
			if p.match < len(r.matches) {
				b.WriteString(r.matches[p.match])
			}
		case p.variable != "":
			b.WriteString(r.variable(p.variable))
		default:
			b.WriteString(p.literal)
		}
		if b.Len() > maxString {
			break
		}
	}
	return bounded(b.String())
}

// bounded cuts what has become too long, between characters.
func bounded(s string) string {
	if len(s) <= maxString {
		return s
	}
	n := maxString
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func all(list []text, r *run) []string {
	out := make([]string, 0, len(list))
	for _, t := range list {
		out = append(out, t.in(r))
	}
	return out
}

// decodeCharacters undoes ${hex: …} and ${unicode: …}.
func decodeCharacters(at Pos, s string) (string, error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, "${")
		b.WriteString(before)
		if !found {
			break
		}
		inner, behind, closed := strings.Cut(rest, "}")
		decoded, ok, err := decodeEncoded(at, inner)
		if err != nil {
			return "", err
		}
		if !closed || !ok {
			b.WriteString("${")
			s = rest
			continue
		}
		b.WriteString(decoded)
		s = behind
	}
	out := b.String()
	if !utf8.ValidString(out) || strings.IndexByte(out, 0) >= 0 {
		return "", syntax.Errorf(at, "encoded characters make no UTF-8 text")
	}
	return out, nil
}

func decodeEncoded(at Pos, inner string) (string, bool, error) {
	kind, digits, found := strings.Cut(inner, ":")
	kind = strings.ToLower(kind)
	if !found || kind != "hex" && kind != "unicode" || strings.TrimSpace(digits) == "" {
		return "", false, nil
	}
	var b strings.Builder
	for _, d := range strings.Fields(digits) {
		v, err := strconv.ParseUint(d, 16, 32)
		switch {
		case err != nil || kind == "hex" && len(d) > 2:
			return "", false, nil
		case kind == "hex":
			b.WriteByte(byte(v))
		case v > utf8.MaxRune || v >= 0xd800 && v < 0xe000: // an error, RFC 5228 §2.4.2.4
			return "", false, syntax.Errorf(at, "${unicode:%s} is no character", d)
		default:
			b.WriteRune(rune(v))
		}
	}
	return b.String(), true, nil
}

// isAddress reports whether a string is one address that mail can be sent to.
func isAddress(s string) bool {
	a, err := mail.ParseAddress(s)
	return err == nil && strings.Contains(a.Address, "@") && !strings.ContainsAny(a.Address, "\r\n\x00 ")
}

// bareAddress returns the address of isAddress without a name.
func bareAddress(s string) string {
	a, err := mail.ParseAddress(s)
	if err != nil {
		return ""
	}
	return a.Address
}
