package nwauth

import "sync"

// slots gathers what several goroutines read of one file, in the file's order.
type slots struct {
	mu    sync.Mutex
	parts [][]imported // by chunk

	calls sync.Mutex
}

// add is called for the lines of one chunk by one goroutine, in their order.
func (s *slots) add(chunk int, r imported) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.parts) <= chunk {
		s.parts = append(s.parts, nil)
	}
	s.parts[chunk] = append(s.parts[chunk], r)
}

func (s *slots) all() []imported {
	n := 0
	for _, part := range s.parts {
		n += len(part)
	}
	all := make([]imported, 0, n)
	for i, part := range s.parts {
		all = append(all, part...)
		s.parts[i] = nil
	}
	s.parts = nil
	return all
}

// call calls f, and nothing else at the same time.
func (s *slots) call(f func()) {
	s.calls.Lock()
	defer s.calls.Unlock()
	f()
}
