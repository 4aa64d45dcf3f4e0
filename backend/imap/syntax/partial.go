package syntax

import "strconv"

// Partial is a range of results (RFC 9394): from the First to the Last, both
// included and counted from one, from the end when FromEnd. The zero value is
// none; else First <= Last.
type Partial struct {
	First, Last uint32
	FromEnd     bool
	text        string // as the client wrote it
}

// Partial reads a range.
func (l *Lexer) Partial() (Partial, error) {
	var p Partial
	p.FromEnd = l.Peek() == '-'
	var err error
	if p.First, err = l.partialNumber(p.FromEnd); err != nil {
		return Partial{}, err
	}
	if err := l.Want(':'); err != nil {
		return Partial{}, err
	}
	if p.Last, err = l.partialNumber(p.FromEnd); err != nil {
		return Partial{}, err
	}
	sign := ""
	if p.FromEnd {
		sign = "-"
	}
	p.text = sign + strconv.FormatUint(uint64(p.First), 10) + ":" + sign + strconv.FormatUint(uint64(p.Last), 10)
	if p.First > p.Last {
		p.First, p.Last = p.Last, p.First
	}
	return p, nil
}

func (l *Lexer) partialNumber(negative bool) (uint32, error) {
	if l.Is('-') != negative {
		return 0, Errorf("a partial range has both ends from the start or both from the end")
	}
	n, err := l.Number()
	if err == nil && n == 0 {
		err = Errorf("numbers begin at 1")
	}
	return n, err
}

// String is the range as the client wrote it: the answer repeats it.
func (p Partial) String() string { return p.text }

// Of returns the part of n results that the range stands for, as half-open
// bounds.
func (p Partial) Of(n int) (from, to int) {
	if p.First == 0 {
		return 0, n
	}
	from = int(min(int64(p.First)-1, int64(n)))
	to = int(min(int64(p.Last), int64(n)))
	if p.FromEnd {
		return n - to, n - from
	}
	return from, to
}
