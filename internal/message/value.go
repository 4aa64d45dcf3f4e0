package message

import (
	"strconv"
	"strings"
)

func isSpace(c byte) bool { return c == ' ' || c == '\t' }

// isToken reports whether c may be in a token (RFC 2045 §5.1). Bytes above
// 127 are let through: they are some sender's unencoded file name.
func isToken(c byte) bool {
	return c > ' ' && c != 0x7f && strings.IndexByte(`()<>@,;:\"/[]?=`, c) < 0
}

// firstToken returns the token at the start of a value, behind white space
// and comments.
func firstToken(v string) string {
	v = skipCFWS(v)
	n := 0
	for n < len(v) && isToken(v[n]) {
		n++
	}
	return v[:n]
}

// tokens reads a comma-separated list.
func tokens(v string) []string {
	var out []string
	for item := range strings.SplitSeq(v, ",") {
		if t := firstToken(item); t != "" {
			out = append(out, t)
		}
	}
	return out
}

// skipCFWS passes over white space and comments, which may nest
// (RFC 5322 §3.2.2). A comment that does not end swallows the rest.
func skipCFWS(v string) string {
	for v != "" {
		switch {
		case isSpace(v[0]) || v[0] == '\r' || v[0] == '\n':
			v = v[1:]
		case v[0] == '(':
			_, v = comment(v)
		default:
			return v
		}
	}
	return v
}

// comment reads the comment at the start of v: its text, and what follows.
func comment(v string) (text, rest string) {
	var b strings.Builder
	depth := 0
	for i := 0; i < len(v); i++ {
		switch c := v[i]; c {
		case '\\':
			if i++; i < len(v) {
				b.WriteByte(v[i])
			}
			continue
		case '(':
			if depth++; depth == 1 {
				continue
			}
		case ')':
			if depth--; depth == 0 {
				return b.String(), v[i+1:]
			}
		}
		b.WriteByte(v[i])
	}
	return b.String(), ""
}

// quoted reads the quoted string at the start of v: its content without
// quoting, and what follows. One that does not end takes the rest.
func quoted(v string) (text, rest string) {
	var b strings.Builder
	for i := 1; i < len(v); i++ {
		switch v[i] {
		case '\\':
			if i++; i < len(v) {
				b.WriteByte(v[i])
			}
		case '"':
			return b.String(), v[i+1:]
		default:
			b.WriteByte(v[i])
		}
	}
	return b.String(), ""
}

// parseType reads a Content-Type value; typ is "" when it is unreadable.
func parseType(v string) (typ, sub string, params []Param) {
	value, params := parseParams(v)
	typ = firstToken(value)
	rest := skipCFWS(skipCFWS(value)[len(typ):])
	if typ == "" || !strings.HasPrefix(rest, "/") {
		return "", "", nil
	}
	sub = firstToken(rest[1:])
	if sub == "" {
		return "", "", nil
	}
	return strings.ToLower(typ), strings.ToLower(sub), params
}

// parseParams splits "value; name=value; …". Extended and continued parameters
// (RFC 2231) stay as they stand: name*0*=… is the client's to join.
func parseParams(v string) (value string, params []Param) {
	value, v = untilSemicolon(v)
	for v != "" {
		v = skipCFWS(v)
		if strings.HasPrefix(v, ";") {
			v = v[1:]
			continue
		}
		n := 0
		for n < len(v) && isToken(v[n]) {
			n++
		}
		name := v[:n]
		rest := skipCFWS(v[n:])
		if name == "" || !strings.HasPrefix(rest, "=") {
			_, v = untilSemicolon(v)
			continue
		}
		var text string
		text, v = paramValue(rest[1:])
		params = append(params, Param{strings.ToLower(name), text})
	}
	return value, params
}

// paramValue reads a quoted value, or an unquoted one up to the semicolon:
// unquoted file names with spaces are common.
func paramValue(v string) (text, rest string) {
	v = skipCFWS(v)
	if strings.HasPrefix(v, `"`) {
		text, rest = quoted(v)
		_, rest = untilSemicolon(rest)
		return text, rest
	}
	text, rest = untilSemicolon(v)
	if i := strings.IndexByte(text, '('); i > 0 {
		text = text[:i]
	}
	return strings.Trim(text, " \t\r\n"), rest
}

// untilSemicolon cuts v at the first semicolon that is in neither quotes nor a
// comment. The semicolon is in neither result.
func untilSemicolon(v string) (before, behind string) {
	depth, quote := 0, false
	for i := 0; i < len(v); i++ {
		switch c := v[i]; {
		case c == '\\' && (quote || depth > 0):
			i++
		case c == '"' && depth == 0:
			quote = !quote
		case quote:
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == ';' && depth == 0:
			return v[:i], v[i+1:]
		}
	}
	return v, ""
}

// paramJoined returns a parameter's value, joined from its continuations and decoded
// as far as the bytes go (RFC 2231): name, name*=charset”… or name*0, name*1*
// and so on. "" when there is none.
func paramJoined(params []Param, name string) string {
	if v, ok := param(params, name); ok {
		return v
	}
	if v, ok := param(params, name+"*"); ok {
		return percentDecode(afterCharset(v))
	}
	var b strings.Builder
	for i := range maxContinuations {
		section := name + "*" + strconv.Itoa(i)
		if v, ok := param(params, section); ok {
			b.WriteString(v)
		} else if v, ok := param(params, section+"*"); ok {
			if i == 0 {
				v = afterCharset(v)
			}
			b.WriteString(percentDecode(v))
		} else {
			break
		}
	}
	return b.String()
}

// maxContinuations bounds how many pieces a parameter is joined from.
const maxContinuations = 100

// afterCharset drops charset'language' from an extended value.
func afterCharset(v string) string {
	if parts := strings.SplitN(v, "'", 3); len(parts) == 3 {
		return parts[2]
	}
	return v
}

func percentDecode(v string) string {
	var b strings.Builder
	for i := 0; i < len(v); i++ {
		if v[i] == '%' && i+2 < len(v) {
			if n, err := strconv.ParseUint(v[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(v[i])
	}
	return b.String()
}
