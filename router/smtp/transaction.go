package smtp

import (
	"bufio"
	"bytes"
	"io"
	"sync"

	"switchyard/internal/smtpd"
	"switchyard/internal/spool"
)

// transaction is one message on its way.
type transaction struct {
	from   smtpd.Path
	params smtpd.MailParams
	trace  string // the Received field that goes in front; its length is declared at MAIL

	recipients []string        // accepted, as the client said them
	seen       map[string]bool // those that were accepted, in lower case
	offered    map[string]bool // what backends have accepted for them, in lower case
	legs       []*leg          // with an accepted recipient
}

// leg returns the transaction's leg to a backend, nil without one.
func (t *transaction) leg(home string) *leg {
	for _, l := range t.legs {
		if l.home == home {
			return l
		}
	}
	return nil
}

// foreign returns the leg to the one foreign backend, nil without one.
func (t *transaction) foreign() *leg {
	for _, l := range t.legs {
		if l.foreign() {
			return l
		}
	}
	return nil
}

// deliver sends the message to all legs and combines their answers.
//
// The backends with delivery ids go first, all at once: what they have taken
// they recognise when the sender comes back. A foreign backend would store it
// twice, so it gets the message when all others have it, and its answer is then
// the last word.
func (t *transaction) deliver(message *spool.Spool) (answers []smtpd.Reply) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, l := range t.legs {
		if l.foreign() {
			continue
		}
		wg.Go(func() {
			got := l.deliver(t.trace, message.Reader())
			mu.Lock()
			defer mu.Unlock()
			answers = append(answers, got...)
		})
	}
	wg.Wait()
	for _, r := range answers {
		if !r.Positive() {
			return answers
		}
	}
	if l := t.foreign(); l != nil {
		answers = append(answers, l.deliver(t.trace, message.Reader())...)
	}
	return answers
}

// combine makes one answer of the recipients' answers, of which there is at
// least one. Only yes from all is yes. For good it is refused only when nobody
// has it. Everything else, an answer that never came above all, is "come back":
// a sender that comes back loses nothing.
func combine(answers []smtpd.Reply, accepted smtpd.Reply) smtpd.Reply {
	yes, no := 0, 0
	var first smtpd.Reply
	for _, r := range answers {
		switch {
		case r.Positive():
			yes++
		case r.Permanent():
			if no++; no == 1 {
				first = r
			}
		}
	}
	switch {
	case yes == len(answers) && yes > 0:
		return accepted
	case no == len(answers) && no > 0:
		return first
	}
	return smtpd.NewReply(451, "4.3.0", "not delivered to all recipients yet, try again later")
}

// maxReceived is how many Received fields make a loop (RFC 5321 §6.3).
const maxReceived = 100

var receivedName = []byte("received:")

// countReceived counts the Received fields of a message's header, as far as
// maxReceived and a bit.
func countReceived(message io.Reader) (n int, err error) {
	r := bufio.NewReader(message)
	start := true // of a line
	for n <= maxReceived {
		part, err := r.ReadSlice('\n')
		if start {
			if len(part) >= len(receivedName) && bytes.EqualFold(part[:len(receivedName)], receivedName) {
				n++
			}
			if len(bytes.TrimRight(part, "\r\n")) == 0 {
				return n, nil // the end of the header, or of everything
			}
		}
		if start = err == nil; err != nil && err != bufio.ErrBufferFull {
			if err == io.EOF {
				err = nil
			}
			return n, err
		}
	}
	return n, nil
}
