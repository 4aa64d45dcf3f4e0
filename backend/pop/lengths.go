package pop

import (
	"bytes"
	"io"
	"sync"

	"switchyard/backend"
)

// lengths remembers how many octets messages grow by when they are sent.
//
// POP3 sends lines that end in CRLF, and its sizes count them so (RFC 1939
// §11), while the store keeps and counts messages as they were received. By
// SMTP and LMTP the two are the same; a message that was appended with bare
// LFs, or without an end to its last line, grows. To know, the message must be
// read once; that is remembered here by GUID, which names the same bytes for
// ever. Two generations of a map bound the memory to about 8 MB.
type lengths struct {
	mu         sync.Mutex
	young, old map[backend.GUID]int64
}

// maxYoung is how many messages one generation remembers.
const maxYoung = 50_000

func newLengths() *lengths {
	return &lengths{young: make(map[backend.GUID]int64), old: nil}
}

func (l *lengths) get(g backend.GUID) (growth int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if growth, ok = l.young[g]; ok {
		return growth, true
	}
	if growth, ok = l.old[g]; ok {
		l.putLocked(g, growth)
	}
	return growth, ok
}

func (l *lengths) put(g backend.GUID, growth int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.putLocked(g, growth)
}

func (l *lengths) putLocked(g backend.GUID, growth int64) {
	if len(l.young) >= maxYoung {
		l.old, l.young = l.young, make(map[backend.GUID]int64)
	}
	l.young[g] = growth
}

// growthOf reads a message and counts.
func growthOf(r io.Reader, buf []byte) (int64, error) {
	var growth int64
	var last byte = '\n'
	for {
		n, err := r.Read(buf)
		part := buf[:n]
		if n > 0 {
			bare := bytes.Count(part, []byte("\n")) - bytes.Count(part, []byte("\r\n"))
			if part[0] == '\n' && last == '\r' {
				bare-- // a CRLF across two reads
			}
			growth += int64(bare)
			last = part[n-1]
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, err
		}
	}
	if last != '\n' {
		growth += 2
	}
	return growth, nil
}
