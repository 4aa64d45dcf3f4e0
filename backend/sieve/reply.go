package sieve

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"time"
)

// reply writes a vacation's answer (RFC 5230 §5).
func (d *delivery) reply(a Vacation) ([]byte, error) {
	fields, err := readFields(d.mail)
	if err != nil {
		return nil, err
	}
	first := func(name string) string {
		if list := fields.named(name); len(list) > 0 {
			return list[0].value()
		}
		return ""
	}
	from := a.From
	if from == "" {
		from = d.u.Account()
	}
	subject := a.Subject
	if subject == "" { // §5.3
		subject = strings.TrimSpace("Auto: " + first("Subject"))
	}
	var b bytes.Buffer
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s\r\n", name, value)
		}
	}
	line("From", addressField(from))
	line("To", "<"+a.To+">")
	line("Subject", encodeField(subject))
	line("Date", d.f.o.Now().Format(time.RFC1123Z))
	line("Message-ID", "<"+strings.ToLower(rand.Text())+"@"+or(d.f.o.Host, "localhost")+">")
	id, references := oneLine(first("Message-ID")), oneLine(first("References"))
	line("In-Reply-To", id)
	if len(references) > maxReferences {
		references = ""
	}
	line("References", strings.TrimSpace(references+" "+id))
	line("Auto-Submitted", "auto-replied (vacation)") // RFC 3834 §5
	line("Precedence", "bulk")
	line("MIME-Version", "1.0")
	if a.MIME {
		b.WriteString(crlf(a.Reason))
		return b.Bytes(), nil
	}
	line("Content-Type", "text/plain; charset=utf-8")
	line("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	if _, err := w.Write([]byte(crlf(a.Reason))); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	b.WriteString("\r\n")
	return b.Bytes(), nil
}

// maxReferences bounds the references that a reply repeats.
const maxReferences = 900

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// oneLine takes line ends and other controls out.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f {
			return -1
		}
		return r
	}, s)
}

// addressField writes an address with its name encoded.
func addressField(s string) string {
	a, err := mail.ParseAddress(s)
	if err != nil {
		return "<" + oneLine(s) + ">"
	}
	return a.String()
}

// crlf makes every line end one of mail.
func crlf(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n")
}
