package smtpd

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"switchyard/internal/origin"
)

// Trace is what a Received field says (RFC 5321 §4.4).
type Trace struct {
	Hello  string     // what the client called itself, not believed
	Client netip.Addr // invalid when unknown
	By     string     // our own name
	With   string     // see Conn.With
	ID     string     // the session's id
	Time   time.Time
}

// Field returns the folded field with its CRLFs. Whatever the client said, it
// is one field: what is no part of a name becomes a question mark.
func (t Trace) Field() string {
	id := t.ID
	if !origin.ValidSession(id) {
		id = "none"
	}
	return fmt.Sprintf("Received: from %s%s\r\n\tby %s with %s id %s;\r\n\t%s\r\n",
		traceName(t.Hello), traceAddress(t.Client), traceName(t.By), traceName(t.With), id,
		t.Time.Format("Mon, 2 Jan 2006 15:04:05 -0700"))
}

// traceName makes a name safe to be written into the field.
func traceName(s string) string {
	if s == "" {
		return "unknown"
	}
	if len(s) > maxDomain {
		s = s[:maxDomain]
	}
	return strings.Map(func(r rune) rune {
		if r > '~' || !isLetDig(byte(r)) && !strings.ContainsRune(".-_:[]", r) {
			return '?'
		}
		return r
	}, s)
}

func traceAddress(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	switch {
	case !a.IsValid():
		return ""
	case a.Is6():
		return " ([IPv6:" + a.String() + "])"
	default:
		return " ([" + a.String() + "])"
	}
}
