package syntax

import (
	"iter"
	"slices"
	"strconv"
)

// maxRanges bounds a set as the client wrote it.
const maxRanges = 20000

// Range is one element of a set, both ends included. Zero stands for *, the
// highest number there is.
type Range struct{ First, Last uint32 }

// Set is a sequence set or a set of UIDs as the client wrote it.
type Set struct {
	Ranges []Range
	Saved  bool // $: the saved result of a SEARCH (RFC 5182); Ranges is empty
}

// Set reads a set.
func (l *Lexer) Set() (Set, error) {
	if l.Is('$') {
		return Set{Saved: true}, nil
	}
	var s Set
	for {
		first, err := l.setNumber()
		if err != nil {
			return Set{}, err
		}
		last := first
		if l.Is(':') {
			if last, err = l.setNumber(); err != nil {
				return Set{}, err
			}
		}
		if len(s.Ranges) == maxRanges {
			return Set{}, Errorf("more than %d ranges in a set", maxRanges)
		}
		s.Ranges = append(s.Ranges, Range{first, last})
		if !l.Is(',') {
			return s, nil
		}
	}
}

func (l *Lexer) setNumber() (uint32, error) {
	if l.Is('*') {
		return 0, nil
	}
	n, err := l.Number()
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, Errorf("numbers begin at 1")
	}
	return n, nil
}

// Resolve puts highest in the place of *, and returns the ranges ascending and
// merged.
func (s Set) Resolve(highest uint32) []Range {
	out := make([]Range, 0, len(s.Ranges))
	for _, r := range s.Ranges {
		if r.First == 0 {
			r.First = highest
		}
		if r.Last == 0 {
			r.Last = highest
		}
		if r.First > r.Last {
			r.First, r.Last = r.Last, r.First
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Range) int {
		if a.First < b.First {
			return -1
		}
		if a.First > b.First {
			return 1
		}
		return 0
	})
	n := 0
	for _, r := range out {
		if n > 0 && uint64(r.First) <= uint64(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
		} else {
			out[n] = r
			n++
		}
	}
	return out[:n]
}

// Contains reports whether the resolved ranges hold n.
func Contains(ranges []Range, n uint32) bool {
	_, found := slices.BinarySearchFunc(ranges, n, func(r Range, n uint32) int {
		switch {
		case r.Last < n:
			return -1
		case r.First > n:
			return 1
		default:
			return 0
		}
	})
	return found
}

// AppendRanges appends ranges as a set.
func AppendRanges(dst []byte, ranges iter.Seq[Range]) []byte {
	first := true
	for r := range ranges {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = strconv.AppendUint(dst, uint64(r.First), 10)
		if r.Last != r.First {
			dst = append(dst, ':')
			dst = strconv.AppendUint(dst, uint64(r.Last), 10)
		}
	}
	return dst
}

// AppendSet appends numbers, in their order, as a set: runs that ascend by one
// become ranges.
func AppendSet[T ~uint32](dst []byte, numbers iter.Seq[T]) []byte {
	var first, last T
	count := 0
	run := func() {
		if count > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(dst, uint64(first), 10)
		if last != first {
			dst = append(dst, ':')
			dst = strconv.AppendUint(dst, uint64(last), 10)
		}
		count++
	}
	open := false
	for n := range numbers {
		switch {
		case open && n == last+1:
			last = n
			continue
		case open:
			run()
		}
		first, last, open = n, n, true
	}
	if open {
		run()
	}
	return dst
}
