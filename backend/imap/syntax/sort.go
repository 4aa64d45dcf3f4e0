package syntax

import "slices"

// maxSortKeys bounds the criteria of one SORT.
const maxSortKeys = 20

// SortOp is a sort criterion (RFC 5256, RFC 5957).
type SortOp int

// The sort criteria.
const (
	SortArrival SortOp = iota
	SortCc
	SortDate
	SortFrom
	SortSize
	SortSubject
	SortTo
	SortDisplayFrom
	SortDisplayTo
)

// SortKey is one criterion of a SORT.
type SortKey struct {
	Op      SortOp
	Reverse bool
}

// Text reports whether the criterion compares strings.
func (k SortKey) Text() bool {
	return !slices.Contains([]SortOp{SortArrival, SortDate, SortSize}, k.Op)
}

// Sort is a SORT command: a search, and the order of its results.
type Sort struct {
	Search
	By []SortKey
}

// Sort reads the arguments of SORT, with the return options of RFC 5267.
func (l *Lexer) Sort() (Sort, error) {
	p := searchParser{Lexer: l}
	if err := p.SP(); err != nil {
		return Sort{}, err
	}
	if err := p.returns(); err != nil {
		return Sort{}, err
	}
	var by []SortKey
	err := p.List(false, func() error {
		if len(by) == maxSortKeys {
			return Errorf("more than %d sort criteria", maxSortKeys)
		}
		k, err := p.sortKey()
		by = append(by, k)
		return err
	})
	if err != nil {
		return Sort{}, err
	}
	if err := p.SP(); err != nil {
		return Sort{}, err
	}
	if err := p.charset(); err != nil {
		return Sort{}, err
	}
	s, err := p.program()
	return Sort{s, by}, err
}

func (l *Lexer) sortKey() (SortKey, error) {
	var k SortKey
	word, err := l.Word()
	if err == nil && word == "REVERSE" {
		k.Reverse = true
		if err = l.SP(); err == nil {
			word, err = l.Word()
		}
	}
	if err != nil {
		return k, err
	}
	op, known := map[string]SortOp{
		"ARRIVAL": SortArrival, "CC": SortCc, "DATE": SortDate, "FROM": SortFrom, "SIZE": SortSize,
		"SUBJECT": SortSubject, "TO": SortTo, "DISPLAYFROM": SortDisplayFrom, "DISPLAYTO": SortDisplayTo,
	}[word]
	if !known {
		return k, Errorf("an unknown sort criterion")
	}
	k.Op = op
	return k, nil
}

// ThreadOp is a threading algorithm (RFC 5256).
type ThreadOp int

// The threading algorithms.
const (
	ThreadOrderedSubject ThreadOp = iota
	ThreadReferences
)

// Thread is a THREAD command.
type Thread struct {
	Search
	By ThreadOp
}

// Thread reads the arguments of THREAD.
func (l *Lexer) Thread() (Thread, error) {
	p := searchParser{Lexer: l}
	if err := p.SP(); err != nil {
		return Thread{}, err
	}
	word, err := p.Word()
	if err != nil {
		return Thread{}, err
	}
	by, known := map[string]ThreadOp{"ORDEREDSUBJECT": ThreadOrderedSubject, "REFERENCES": ThreadReferences}[word]
	if !known {
		return Thread{}, Errorf("an unknown threading algorithm")
	}
	if err := p.SP(); err != nil {
		return Thread{}, err
	}
	if err := p.charset(); err != nil {
		return Thread{}, err
	}
	s, err := p.program()
	return Thread{s, by}, err
}
