package smtpd

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"switchyard/internal/origin"
)

var (
	errSyntax  = errors.New("malformed parameter")
	errUnknown = errors.New("parameter not offered")
	errTooBig  = errors.New("size out of range")
)

// offers says which parameters may be used now.
type offers struct {
	auth    bool // AUTH on MAIL
	private bool // XTRACELEN and XRCPTFORWARD
}

// param is one parameter of MAIL or RCPT. A value is never empty when there is
// one.
type param struct {
	key      string // in capitals
	value    string
	hasValue bool
}

// splitParams reads what follows a path: each parameter has a space before it.
// An = in a value is no part of RFC 5321's grammar, but of XRCPTFORWARD's
// base64.
func splitParams(s string) ([]param, error) {
	s = strings.TrimRight(s, " ")
	if s == "" {
		return nil, nil
	}
	if s[0] != ' ' {
		return nil, errSyntax
	}
	var out []param
	for word := range strings.FieldsSeq(s) {
		k, v, hasValue := strings.Cut(word, "=")
		if !isKeyword(k) || hasValue && !isValue(v) {
			return nil, fmt.Errorf("%w %q", errSyntax, clip(word))
		}
		k = strings.ToUpper(k)
		if slices.ContainsFunc(out, func(p param) bool { return p.key == k }) {
			return nil, fmt.Errorf("%w: %s is there twice", errSyntax, clip(k))
		}
		out = append(out, param{k, v, hasValue})
	}
	return out, nil
}

func isKeyword(s string) bool {
	for i := range len(s) {
		if c := s[i]; c > '~' || !isLetDig(c) && (c != '-' || i == 0) {
			return false
		}
	}
	return s != ""
}

func isValue(s string) bool {
	for i := range len(s) {
		if s[i] < '!' || s[i] > '~' {
			return false
		}
	}
	return s != ""
}

// parseMail reads the parameters of MAIL.
func parseMail(s string, o offers) (p MailParams, err error) {
	list, err := splitParams(s)
	if err != nil {
		return p, err
	}
	for _, a := range list {
		ok := a.hasValue
		switch {
		case a.key == "SIZE":
			p.Size, ok, err = parseSize(a.value)
		case a.key == "BODY":
			p.Body = strings.ToUpper(a.value)
			if ok && p.Body != "7BIT" && p.Body != "8BITMIME" {
				err = fmt.Errorf("%w: BODY=%s", errUnknown, clip(a.value))
			}
		case a.key == "SMTPUTF8":
			p.UTF8, ok = true, !a.hasValue
		case a.key == "RET":
			p.Ret = strings.ToUpper(a.value)
			ok = p.Ret == "FULL" || p.Ret == "HDRS"
		case a.key == "ENVID":
			p.EnvID, ok = decodeText(a.value, 100)
		case a.key == "AUTH" && o.auth:
			p.Auth, ok = decodeText(a.value, 500)
		case a.key == "XTRACELEN" && o.private:
			p.Trace, ok, err = parseSize(a.value)
		default:
			err = fmt.Errorf("%w: %s", errUnknown, clip(a.key))
		}
		if err == nil && !ok {
			err = fmt.Errorf("%w %s", errSyntax, a.key)
		}
		if err != nil {
			return MailParams{}, err
		}
	}
	return p, nil
}

// parseRcpt reads the parameters of RCPT.
func parseRcpt(s string, o offers) (p RcptParams, err error) {
	list, err := splitParams(s)
	if err != nil {
		return p, err
	}
	for _, a := range list {
		var ok bool
		switch {
		case a.key == "NOTIFY":
			p.Notify = strings.ToUpper(a.value)
			ok = isNotify(p.Notify)
		case a.key == "ORCPT":
			var text string
			p.ORcptType, text, ok = strings.Cut(a.value, ";")
			if ok = ok && isKeyword(p.ORcptType); ok {
				p.ORcpt, ok = decodeText(text, 500)
			}
		case a.key == "XRELAY" && o.private:
			p.Relay, ok = true, !a.hasValue
		case a.key == "XRCPTFORWARD" && o.private:
			p.Generation, err = origin.ParseForward(a.value)
			ok = err == nil && a.hasValue
			err = nil
		default:
			err = fmt.Errorf("%w: %s", errUnknown, clip(a.key))
		}
		if err == nil && !ok {
			err = fmt.Errorf("%w %s", errSyntax, a.key)
		}
		if err != nil {
			return RcptParams{}, err
		}
	}
	return p, nil
}

// parseSize reads a size of at most 20 digits (RFC 1870 §5). One past int64 is
// errTooBig.
func parseSize(s string) (n int64, ok bool, err error) {
	if s == "" || len(s) > 20 || strings.Trim(s, "0123456789") != "" {
		return 0, false, nil
	}
	if n, err = strconv.ParseInt(s, 10, 64); err != nil {
		return 0, false, errTooBig
	}
	return n, true, nil
}

// decodeText decodes xtext of at most limit characters into printable ASCII.
func decodeText(s string, limit int) (string, bool) {
	if s == "" || len(s) > limit {
		return "", false
	}
	text, err := origin.DecodeXText(s)
	if err != nil {
		return "", false
	}
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return "", false
		}
	}
	return text, true
}

// isNotify checks a NOTIFY list (RFC 3461 §4.1).
func isNotify(s string) bool {
	if s == "NEVER" {
		return true
	}
	var seen []string
	for word := range strings.SplitSeq(s, ",") {
		if word != "SUCCESS" && word != "FAILURE" && word != "DELAY" || slices.Contains(seen, word) {
			return false
		}
		seen = append(seen, word)
	}
	return true
}

// clip shortens what a client said for an answer.
func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}
