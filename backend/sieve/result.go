package sieve

import (
	"io"
	"slices"
	"strings"
	"time"
)

// Result is what becomes of a message.
type Result struct {
	// Actions, in the order in which the script took them. There is a Keep or a
	// FileInto for each mailbox once at most.
	Actions []Action

	// Err is why the script could not go on. The message is kept, beside what
	// had been decided.
	Err error

	implicit bool // keep at the end (RFC 5228 §2.10.2)
}

// Action is one of the types below.
type Action interface{ action() }

// Keep files the message into INBOX.
type Keep struct {
	Flags  []string
	Header *Header // as editheader left it then
}

// FileInto files the message into a mailbox. When the mailbox does not exist and
// is not to be made, INBOX is meant.
type FileInto struct {
	Mailbox string // in UTF-8
	Create  bool
	Flags   []string
	Header  *Header
}

// Redirect sends the message on.
type Redirect struct {
	Address string
	Header  *Header
}

// Reject refuses the message, by the protocol where it can.
type Reject struct {
	Reason string
	Strict bool // ereject: by the protocol, RFC 5429 §2.1
}

// Vacation answers the sender (RFC 5230).
type Vacation struct {
	To      string // the envelope's sender
	From    string // "": the recipient's own address
	Subject string // "": Auto: and the message's subject
	Reason  string
	MIME    bool          // Reason is a MIME entity with its header
	Days    time.Duration // how long not to answer this sender again
	Handle  string        // what "again" is about
}

func (Keep) action()     {}
func (FileInto) action() {}
func (Redirect) action() {}
func (Reject) action()   {}
func (Vacation) action() {}

// Header is a header that a script has edited.
type Header struct {
	text string
	end  int64 // what it stands for ends there in the message
}

// Message returns the message with this header, and its size. A nil Header is
// the message's own.
func (h *Header) Message(m Mail) (io.ReaderAt, int64) {
	if h == nil {
		return m.Body, m.Size
	}
	head := int64(len(h.text))
	return &joined{head: strings.NewReader(h.text), size: head, tail: m.Body, skip: h.end, tailSize: m.Size - h.end}, head + m.Size - h.end
}

// joined is a text followed by the end of a message.
type joined struct {
	head     *strings.Reader
	size     int64
	tail     io.ReaderAt
	skip     int64
	tailSize int64
}

// ReadAt implements io.ReaderAt.
func (j *joined) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	if off < j.size {
		var err error
		if n, err = j.head.ReadAt(p, off); err != nil && err != io.EOF {
			return n, err
		}
		off += int64(n)
	}
	if n == len(p) {
		return n, nil
	}
	more, err := io.NewSectionReader(j.tail, j.skip, j.tailSize).ReadAt(p[n:], off-j.size)
	return n + more, err
}

// header is the header as it is now, nil while nothing is edited.
func (r *run) header() *Header {
	if !r.fields.edited {
		return nil
	}
	return &Header{text: r.fields.text(), end: r.fields.end}
}

// settle adds the implicit keep and makes one of what files into one mailbox.
func (res Result) settle(r *run) Result {
	if res.implicit {
		res.Actions = append(res.Actions, Keep{Flags: r.flags, Header: r.header()})
	}
	var out []Action
	filed := make(map[string]bool)
	for _, a := range res.Actions {
		name := ""
		switch a := a.(type) {
		case Keep:
			name = "INBOX"
		case FileInto:
			if name = a.Mailbox; strings.EqualFold(name, "INBOX") {
				name = "INBOX"
			}
		}
		if name != "" && filed[name] {
			continue
		}
		filed[name] = true
		out = append(out, a)
	}
	res.Actions = out
	return res
}

// Discarded reports whether nothing at all becomes of the message.
func (res *Result) Discarded() bool { return len(res.Actions) == 0 }

// add takes an action; cancels says that there is no implicit keep any more.
func (r *run) add(a Action, cancels bool) error {
	if len(r.result.Actions) == maxActions {
		return failed("more than %d actions", maxActions)
	}
	if _, rejects := a.(Reject); rejects || r.rejected() {
		// RFC 5429 §2.2: a message that is refused is not delivered besides.
		if len(r.result.Actions) > 0 {
			return failed("a message that is refused cannot have other actions")
		}
	}
	r.result.Actions = append(r.result.Actions, a)
	r.result.implicit = r.result.implicit && !cancels
	return nil
}

func (r *run) rejected() bool {
	return slices.ContainsFunc(r.result.Actions, func(a Action) bool { _, is := a.(Reject); return is })
}
