package sieve

import (
	"fmt"
	"net/mail"
	"strconv"
	"strings"
	"time"

	"switchyard/backend/sieve/syntax"
	"switchyard/internal/message"
)

// zone is in which time zone a date's parts are taken (RFC 5260 §4.1).
type zone struct {
	original bool
	offset   *text
}

func (z *zone) tags(p *params, tags map[string]func(Pos) error, original bool) {
	tags["zone"] = func(at Pos) error {
		if z.original {
			return syntax.Errorf(at, ":zone and :originalzone exclude each other")
		}
		t, err := p.text("a time zone")
		if err == nil && t.constant() {
			if _, ok := parseZone(t.source); !ok {
				err = syntax.Errorf(at, "%q is no time zone such as +0100", t.source)
			}
		}
		z.offset = &t
		return err
	}
	if original {
		tags["originalzone"] = func(at Pos) error {
			if z.offset != nil {
				return syntax.Errorf(at, ":zone and :originalzone exclude each other")
			}
			z.original = true
			return nil
		}
	}
}

func parseZone(s string) (*time.Location, bool) {
	if len(s) != 5 || s[0] != '+' && s[0] != '-' {
		return nil, false
	}
	n, err := strconv.ParseUint(s[1:], 10, 16)
	if err != nil || n%100 >= 60 || n > 2359 {
		return nil, false
	}
	seconds := int(n/100)*3600 + int(n%100)*60
	if s[0] == '-' {
		seconds = -seconds
	}
	return time.FixedZone(s, seconds), true
}

// in brings a moment into the zone.
func (z *zone) in(r *run, t time.Time) (time.Time, error) {
	switch {
	case z.original:
		return t, nil
	case z.offset == nil:
		return t.In(r.env.Now.Location()), nil
	}
	l, ok := parseZone(z.offset.in(r))
	if !ok {
		return t, failed("%q is no time zone such as +0100", z.offset.in(r))
	}
	return t.In(l), nil
}

// date looks at a date in a field (RFC 5260 §4).
func (c *compiler) date(n *syntax.Node) (test, error) {
	p, m, at, z := c.params(n), &matcher{}, place{}, zone{}
	tags := m.tags(p)
	at.tags(p, tags)
	z.tags(p, tags, true)
	if err := p.tags(tags); err != nil {
		return nil, err
	}
	if err := at.check(n); err != nil {
		return nil, err
	}
	name, err := p.text("a field's name")
	if err == nil {
		err = fieldName(n.Pos, name)
	}
	if err != nil {
		return nil, err
	}
	part, err := p.datePart()
	if err != nil {
		return nil, err
	}
	if err := m.readKeys(p); err != nil {
		return nil, err
	}
	return testFunc(func(r *run) (bool, error) {
		list := r.fields.named(name.in(r))
		if at.index == 0 && len(list) > 1 {
			list = list[:1] // the first, RFC 5260 §4
		}
		var values []string
		for _, f := range nth(list, at.index, at.last) {
			if t, ok := fieldDate(f); ok {
				t, err := z.in(r, t)
				if err != nil {
					return false, err
				}
				values = append(values, datePart(t, part.in(r)))
			}
		}
		return m.any(r, values)
	}), p.end()
}

// fieldDate reads a field's date; in Received it stands behind the last
// semicolon.
func fieldDate(f *field) (time.Time, bool) {
	v := f.bare()
	if i := strings.LastIndexByte(v, ';'); i >= 0 {
		v = v[i+1:]
	}
	v = strings.TrimSpace(v)
	if t, err := mail.ParseDate(v); err == nil {
		return t, true // in the zone that is written there
	}
	d, ok := message.ParseDate(v)
	return d.Moment, ok
}

func (c *compiler) currentDate(n *syntax.Node) (test, error) {
	p, m, z := c.params(n), &matcher{}, zone{}
	tags := m.tags(p)
	z.tags(p, tags, false)
	if err := p.tags(tags); err != nil {
		return nil, err
	}
	part, err := p.datePart()
	if err != nil {
		return nil, err
	}
	if err := m.readKeys(p); err != nil {
		return nil, err
	}
	return testFunc(func(r *run) (bool, error) {
		t, err := z.in(r, r.env.Now)
		if err != nil {
			return false, err
		}
		return m.any(r, []string{datePart(t, part.in(r))})
	}), p.end()
}

// datePart reads the name of a part.
func (p *params) datePart() (text, error) {
	t, err := p.text("a date's part")
	if err == nil && t.constant() && datePart(time.Unix(0, 0).UTC(), t.source) == "" {
		err = syntax.Errorf(p.n.Pos, "a date has no part %q", t.source)
	}
	return t, err
}

// datePart formats a part of a date (RFC 5260 §4.2); an unknown one is empty.
func datePart(t time.Time, part string) string {
	switch strings.ToLower(part) {
	case "year":
		return t.Format("2006")
	case "month":
		return t.Format("01")
	case "day":
		return t.Format("02")
	case "date":
		return t.Format("2006-01-02")
	case "julian": // the modified Julian day
		return strconv.FormatInt(time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC).Unix()/86400+40587, 10)
	case "hour":
		return t.Format("15")
	case "minute":
		return t.Format("04")
	case "second":
		return t.Format("05")
	case "time":
		return t.Format("15:04:05")
	case "iso8601":
		return t.Format("2006-01-02T15:04:05-07:00")
	case "std11":
		return t.Format("Mon, 02 Jan 2006 15:04:05 -0700")
	case "zone":
		return t.Format("-0700")
	case "weekday":
		return fmt.Sprint(int(t.Weekday()))
	}
	return ""
}
