package sieve

import (
	"io"
	"strings"

	"switchyard/backend/sieve/syntax"
	"switchyard/internal/message"
)

// The bounds of what the test body looks at: bytes of one part, and of all.
const (
	maxBodyPart = 256 << 10
	maxBody     = 1 << 20
)

// body looks at the message's body (RFC 5173).
func (c *compiler) body(n *syntax.Node) (test, error) {
	p, m := c.params(n), &matcher{}
	kind := "text"
	var types []text
	tags := m.tags(p)
	chosen := false
	for _, name := range []string{"raw", "text", "content"} {
		tags[name] = func(at Pos) (err error) {
			if chosen {
				return syntax.Errorf(at, "body takes one of :raw, :text and :content")
			}
			kind, chosen = name, true
			if name == "content" {
				types, err = p.list("a list of content types")
			}
			return err
		}
	}
	if err := p.tags(tags); err != nil {
		return nil, err
	}
	if err := m.readKeys(p); err != nil {
		return nil, err
	}
	return testFunc(func(r *run) (bool, error) {
		before := r.matches // RFC 5173 §6: body sets no match values
		values, err := r.bodyTexts(kind, all(types, r))
		if err != nil {
			return false, err
		}
		hit := false
		for _, v := range values {
			if hit, err = m.body(r, v); hit || err != nil {
				break
			}
		}
		r.matches = before
		return hit, err
	}), p.end()
}

// body compares one text, which may be longer than a variable can be.
func (m *matcher) body(r *run, v string) (bool, error) {
	if m.kind == count {
		return m.any(r, []string{""})
	}
	for i, k := range all(m.keys, r) {
		if hit, err := m.one(r, i, v, k); hit || err != nil {
			return hit, err
		}
	}
	return false, nil
}

// bodyTexts returns what a body test looks at.
func (r *run) bodyTexts(kind string, types []string) ([]string, error) {
	root := r.mail.Root
	if kind == "raw" {
		text, err := readText(io.NewSectionReader(r.mail.Body, root.BodyStart, root.End-root.BodyStart), maxBody)
		return []string{text}, err
	}
	var out []string
	left := int64(maxBody)
	var walk func(p *message.Part) error
	walk = func(p *message.Part) error {
		if len(p.Parts) == 0 && left > 0 && wantedPart(p, kind, types) {
			text, ok := message.DecodeText(r.mail.Body, p)
			if ok {
				s, err := readText(text, min(maxBodyPart, left))
				if err != nil {
					return err
				}
				left -= int64(len(s))
				out = append(out, s)
			}
		}
		for _, child := range p.Parts {
			if err := walk(child); err != nil {
				return err
			}
		}
		return nil
	}
	return out, walk(root)
}

func wantedPart(p *message.Part, kind string, types []string) bool {
	if kind == "text" {
		return p.Type == "text"
	}
	for _, t := range types { // RFC 5173 §5.2
		main, sub, whole := strings.Cut(strings.ToLower(t), "/")
		if t == "" || main == p.Type && (!whole || sub == p.Subtype) {
			return true
		}
	}
	return false
}

func readText(r io.Reader, limit int64) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit))
	return strings.ToValidUTF8(string(b), "\ufffd"), err
}
