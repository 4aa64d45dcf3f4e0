package syntax

// QResync is the parameter of SELECT (QRESYNC (…)) (RFC 7162 §3.2.5).
type QResync struct {
	UIDValidity uint32
	ModSeq      int64
	Known       *Set // the UIDs that the client knows; nil: not given

	// Numbers and UIDs are the sequence match data, each empty when not given.
	Numbers, UIDs Set
}

// QResync reads the parameter behind its name and a space.
func (l *Lexer) QResync() (QResync, error) {
	var q QResync
	if err := l.Want('('); err != nil {
		return q, err
	}
	var err error
	if q.UIDValidity, err = l.Number(); err != nil {
		return q, err
	}
	if err := l.SP(); err != nil {
		return q, err
	}
	if q.ModSeq, err = l.Number64(); err != nil {
		return q, err
	}
	if q.ModSeq == 0 || q.UIDValidity == 0 {
		return q, Errorf("numbers begin at 1")
	}
	if l.Is(' ') {
		if l.Peek() != '(' {
			known, err := l.plainSet()
			if err != nil {
				return q, err
			}
			q.Known = &known
			if !l.Is(' ') {
				return q, l.Want(')')
			}
		}
		if err := l.matchData(&q); err != nil {
			return q, err
		}
	}
	return q, l.Want(')')
}

// matchData reads (numbers UIDs).
func (l *Lexer) matchData(q *QResync) error {
	if err := l.Want('('); err != nil {
		return err
	}
	var err error
	if q.Numbers, err = l.plainSet(); err != nil {
		return err
	}
	if err := l.SP(); err != nil {
		return err
	}
	if q.UIDs, err = l.plainSet(); err != nil {
		return err
	}
	return l.Want(')')
}

// plainSet reads a set without * and $.
func (l *Lexer) plainSet() (Set, error) {
	s, err := l.Set()
	if err != nil {
		return s, err
	}
	bad := s.Saved
	for _, r := range s.Ranges {
		bad = bad || r.First == 0 || r.Last == 0
	}
	if bad {
		return s, Errorf("a set of numbers is wanted, without * and $")
	}
	return s, nil
}
