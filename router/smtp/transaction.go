package smtp

import (
	"bufio"
	"bytes"
	"io"

	"switchyard/internal/smtpd"
)

// transaction is one message on its way.
type transaction struct {
	from   smtpd.Path
	params smtpd.MailParams
	trace  string // the Received field that goes in front; its length is declared at MAIL

	addressees []*addressee          // in the order in which they were accepted
	seen       map[string]*addressee // by address, in lower case
	offers     map[string]*offer     // that stand, by kind and address in lower case
	legs       []*leg                // with an accepted recipient
}

// addressee is a recipient as the client named it, with what is behind the
// address.
type addressee struct {
	address string
	offers  []*offer
}

// offer is one mailbox, or one address for a queue, and what became of it.
type offer struct {
	to       recipient
	leg      *leg        // that has accepted it; nil when it was refused for good at RCPT
	answer   smtpd.Reply // to the message, or to RCPT; zero: none came
	withheld bool        // the message was not sent
	reported bool        // a queue has the report for the sender
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

// names returns the recipients as the client named them.
func (t *transaction) names() (out []string) {
	for _, a := range t.addressees {
		out = append(out, a.address)
	}
	return out
}

// groups returns the offers by the answers that are due: one for SMTP, and for LMTP
// one for each recipient that was accepted.
func (t *transaction) groups(lmtp bool) (groups [][]*offer) {
	for _, a := range t.addressees {
		if lmtp || len(groups) == 0 {
			groups = append(groups, nil)
		}
		last := &groups[len(groups)-1]
		*last = append(*last, a.offers...)
	}
	return groups
}

// maxReceived is how many Received fields make a loop (RFC 5321 §6.3).
const maxReceived = 100

var (
	receivedName  = []byte("received:")
	messageIDName = []byte("message-id:")
)

// header is what is looked for in a message's header.
type header struct {
	received  int  // fields, as far as maxReceived and a bit
	messageID bool // there is such a field
}

// scanHeader reads a message's header.
func scanHeader(message io.Reader) (h header, err error) {
	r := bufio.NewReader(message)
	start := true // of a line
	for h.received <= maxReceived {
		part, err := r.ReadSlice('\n')
		if start {
			switch {
			case beginsWith(part, receivedName):
				h.received++
			case beginsWith(part, messageIDName):
				h.messageID = true
			case len(bytes.TrimRight(part, "\r\n")) == 0:
				return h, nil // the end of the header, or of everything
			}
		}
		if start = err == nil; err != nil && err != bufio.ErrBufferFull {
			if err == io.EOF {
				err = nil
			}
			return h, err
		}
	}
	return h, nil
}

func beginsWith(line, name []byte) bool {
	return len(line) >= len(name) && bytes.EqualFold(line[:len(name)], name)
}
