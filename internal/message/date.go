package message

import (
	"strings"
	"time"
)

// Date is what a Date field says.
type Date struct {
	Moment time.Time // in UTC
	Day    time.Time // the date as it is written, without time and zone, as midnight UTC
}

// ParseDate reads a Date field (RFC 5322 §3.3 and §4.3), and what is often
// found in its place: no day of the week, a month's whole name, hyphens between
// the parts, a year of two digits, no seconds. A zone that nobody knows counts
// as UTC, and a time that cannot be read as midnight (RFC 5256 §2.2). ok is
// false when there is no date in it.
func ParseDate(field string) (d Date, ok bool) {
	p := dateParser{rest: field}
	word := p.next()
	if word != "" && !isDigit(word[0]) && month(word) == 0 { // the day of the week
		word = p.next()
	}
	day, found := number(word)
	var m time.Month
	if found {
		m = month(p.next())
	} else { // asctime: Jan 2 15:04:05 2026
		m = month(word)
		if day, found = number(p.next()); !found {
			return d, false
		}
	}
	if m == 0 || day < 1 || day > 31 {
		return d, false
	}
	word = p.next()
	clock := ""
	if strings.IndexByte(word, ':') > 0 {
		clock, word = word, p.next()
	}
	year, found := number(word)
	if !found {
		return d, false
	}
	if year < 1000 && len(word) <= 3 { // RFC 5322 §4.3
		if len(word) == 2 && year < 50 {
			year += 100
		}
		year += 1900
	}
	d.Day = time.Date(year, m, day, 0, 0, 0, 0, time.UTC)
	if d.Day.Day() != day || year < 1 || year > 9999 {
		return Date{}, false
	}
	d.Moment = d.Day
	if clock == "" {
		clock = p.next()
	}
	if seconds, found := clockSeconds(clock); found {
		d.Moment = d.Day.Add(time.Duration(seconds-zoneSeconds(p.next())) * time.Second)
	}
	return d, true
}

// dateParser splits a date into words: at white space, commas, comments, and
// hyphens between the parts of a date.
type dateParser struct{ rest string }

func (p *dateParser) next() string {
	for p.rest != "" {
		switch c := p.rest[0]; {
		case c == '(':
			_, p.rest = comment(p.rest)
		case c <= ' ' || c == ',':
			p.rest = p.rest[1:]
		case c == '-' && len(p.rest) > 1 && !isDigit(p.rest[1]):
			p.rest = p.rest[1:]
		default:
			return p.word()
		}
	}
	return ""
}

// word takes what is up to the next separator. A hyphen separates, unless it
// is a zone's sign.
func (p *dateParser) word() string {
	n := 1
	for n < len(p.rest) && p.rest[n] > ' ' && strings.IndexByte(",(-+", p.rest[n]) < 0 {
		n++
	}
	w := p.rest[:n]
	p.rest = p.rest[n:]
	if len(p.rest) > 1 && p.rest[0] == '-' && strings.IndexByte(w, ':') < 0 {
		p.rest = p.rest[1:]
	}
	return w
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// number reads at most four digits.
func number(s string) (n int, ok bool) {
	if s == "" || len(s) > 4 {
		return 0, false
	}
	for i := range len(s) {
		if !isDigit(s[i]) {
			return 0, false
		}
		n = 10*n + int(s[i]-'0')
	}
	return n, true
}

func month(s string) time.Month {
	if len(s) < 3 {
		return 0
	}
	for m := time.January; m <= time.December; m++ {
		if name := m.String(); len(s) <= len(name) && strings.EqualFold(s, name[:len(s)]) {
			return m
		}
	}
	return 0
}

// clockSeconds reads hh:mm or hh:mm:ss as seconds since midnight.
func clockSeconds(s string) (int, bool) {
	hour, rest, found := strings.Cut(s, ":")
	if !found {
		return 0, false
	}
	minute, second, found := strings.Cut(rest, ":")
	if !found {
		second = "0"
	}
	h, ok1 := number(hour)
	m, ok2 := number(minute)
	sec, ok3 := number(second)
	if !ok1 || !ok2 || !ok3 || h > 24 || m > 59 || sec > 60 {
		return 0, false
	}
	return h*3600 + m*60 + sec, true
}

// zoneSeconds reads a zone as seconds east of UTC.
func zoneSeconds(s string) int {
	if len(s) == 5 && (s[0] == '+' || s[0] == '-') {
		if n, ok := number(s[1:]); ok && n%100 < 60 {
			sec := n/100*3600 + n%100*60
			if s[0] == '-' {
				return -sec
			}
			return sec
		}
	}
	switch strings.ToUpper(s) { // RFC 5322 §4.3; the military ones mean nothing
	case "EDT":
		return -4 * 3600
	case "EST", "CDT":
		return -5 * 3600
	case "CST", "MDT":
		return -6 * 3600
	case "MST", "PDT":
		return -7 * 3600
	case "PST":
		return -8 * 3600
	}
	return 0
}
