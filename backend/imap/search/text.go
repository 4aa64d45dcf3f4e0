package search

import (
	"strings"

	"switchyard/backend/imap/syntax"
	"switchyard/backend/textindex"
	"switchyard/internal/message"
)

// compileText makes the keys that look for a string.
func (m *Mailbox) compileText(k syntax.Key) criterion {
	needle := message.NewNeedle(k.Text)
	switch {
	case k.Op == syntax.InHeader && k.Envelope && (k.Field == "SUBJECT" || k.Field == "FROM"):
		return criterion{inIndex, func(c *candidate) (bool, error) {
			return c.inFacts(k.Field, needle)
		}}
	case k.Op == syntax.InHeader && k.Envelope:
		return criterion{inIndex, func(c *candidate) (bool, error) {
			e, err := c.envelope()
			return err == nil && inEnvelope(e, k.Field, needle), err
		}}
	case k.Op == syntax.InHeader && isTextField(k.Field) && k.Text != "":
		return criterion{inIndex, func(c *candidate) (bool, error) {
			e, err := c.envelope()
			return err == nil && needle.InString(message.DecodeHeader(textField(e, k.Field))), err
		}}
	case k.Op == syntax.InHeader:
		return criterion{inHeader, func(c *candidate) (bool, error) {
			content, root, err := c.open()
			if err != nil {
				return false, err
			}
			return needle.InHeader(content, root, k.Field)
		}}
	}
	whole, indexed := k.Op == syntax.InText, m.indexed(k)
	return criterion{inBody, func(c *candidate) (bool, error) {
		switch hit, err := indexed(c); {
		case err != nil:
			return false, err
		case hit != textindex.Maybe:
			return hit == textindex.Yes, nil
		}
		content, root, err := c.open()
		if err != nil {
			return false, err
		}
		if whole {
			if hit, err := needle.InHeader(content, root, ""); hit || err != nil {
				return hit, err
			}
		}
		return needle.InBody(content, root)
	}}
}

// fewMessages are sooner read than indexed, as long as the index has to be
// brought up to date for them.
const fewMessages = 20

// indexed asks the index about a text, once for all messages and only when the
// cheaper keys have left one.
func (m *Mailbox) indexed(k syntax.Key) func(*candidate) (textindex.Hit, error) {
	if m.Index == nil || m.Messages.Len() < fewMessages {
		return func(*candidate) (textindex.Hit, error) { return textindex.Maybe, nil }
	}
	zone := textindex.Body
	if k.Op == syntax.InText {
		zone = textindex.Text
	}
	var hits []textindex.Hit
	return func(c *candidate) (textindex.Hit, error) {
		if hits == nil {
			var err error
			if hits, err = m.Index.Find(c.ctx, m.User, m.ID, m.Messages, k.Text, zone); err != nil {
				return textindex.Maybe, err
			}
		}
		return hits[c.position], nil
	}
}

// inFacts answers SUBJECT and FROM, from memory where that is possible.
func (c *candidate) inFacts(field string, needle message.Needle) (bool, error) {
	f, err := c.box.facts(c)
	if err != nil {
		return false, err
	}
	if f.long {
		e, err := c.envelope()
		return err == nil && inEnvelope(e, field, needle), err
	}
	text := f.from
	if field == "SUBJECT" {
		text = f.title
	}
	return text != "" && needle.InFolded(text), nil
}

// inEnvelope answers BCC, CC, FROM, SUBJECT and TO, which ask for the
// envelope's fields (RFC 9051 §6.4.4). An empty string asks whether there is
// one.
func inEnvelope(e *message.Envelope, field string, needle message.Needle) bool {
	var list []message.Address
	switch field {
	case "SUBJECT":
		return e.Subject != "" && needle.InString(message.DecodeHeader(e.Subject))
	case "FROM":
		list = e.From
	case "TO":
		list = e.To
	case "CC":
		list = e.Cc
	case "BCC":
		list = e.Bcc
	}
	return len(list) > 0 && needle.InString(addressText(list))
}

// addressText writes addresses as people do, with names decoded.
func addressText(list []message.Address) string {
	var b strings.Builder
	for i, a := range list {
		if i > 0 && (!a.Group || a.Mailbox != "") {
			b.WriteString(", ")
		}
		switch {
		case a.Group && a.Mailbox == "":
			b.WriteByte(';')
		case a.Group:
			b.WriteString(message.DecodeHeader(a.Mailbox) + ":")
		default:
			if a.Name != "" {
				b.WriteString(message.DecodeHeader(a.Name) + " ")
			}
			b.WriteString("<" + a.Mailbox)
			if a.Host != "" {
				b.WriteString("@" + a.Host)
			}
			b.WriteByte('>')
		}
	}
	return b.String()
}

// isTextField reports whether the envelope keeps the field's text as it
// stands: HEADER can be answered from there.
func isTextField(name string) bool {
	for _, known := range []string{"Subject", "Message-ID", "In-Reply-To", "References", "Date"} {
		if strings.EqualFold(name, known) {
			return true
		}
	}
	return false
}

func textField(e *message.Envelope, name string) string {
	switch strings.ToLower(name) {
	case "subject":
		return e.Subject
	case "message-id":
		return e.MessageID
	case "in-reply-to":
		return e.InReplyTo
	case "references":
		return e.References
	default:
		return e.Date
	}
}

// compileSent compares the Date field's date, without time and zone.
func compileSent(k syntax.Key) criterion {
	return criterion{inIndex, func(c *candidate) (bool, error) {
		facts, err := c.box.facts(c)
		if err != nil || !facts.dated {
			return false, err
		}
		day := unixDay(k.Date)
		switch k.Op {
		case syntax.SentBefore:
			return facts.day < day, nil
		case syntax.SentOn:
			return facts.day == day, nil
		default:
			return facts.day >= day, nil
		}
	}}
}
