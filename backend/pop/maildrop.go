package pop

import (
	"context"
	"io"
	"strconv"

	"switchyard/backend"
)

// copyBuffer is what a message is sent through: all that a RETR holds of it.
const copyBuffer = 16 << 10

// maildrop is INBOX at the moment of login. Numbers are positions plus one.
type maildrop struct {
	user     backend.User
	mailbox  backend.GUID
	messages backend.Messages
	lengths  *lengths

	deleted map[int]bool
	ids     []string // unique-ids, made when first wanted
	buf     []byte
}

func openMaildrop(ctx context.Context, user backend.User, l *lengths) (*maildrop, error) {
	box, err := user.Mailbox(ctx, backend.Inbox)
	if err != nil {
		return nil, err
	}
	view, err := user.View(ctx, box.ID)
	if err != nil {
		return nil, err
	}
	return &maildrop{user: user, mailbox: box.ID, messages: view.Messages, lengths: l, deleted: make(map[int]bool)}, nil
}

func (d *maildrop) count() int { return d.messages.Len() - len(d.deleted) }

// buffer is made once and used for every message.
func (d *maildrop) buffer() []byte {
	if d.buf == nil {
		d.buf = make([]byte, copyBuffer)
	}
	return d.buf
}

// size returns the octets that RETR sends for message i, before dot-stuffing.
func (d *maildrop) size(ctx context.Context, i int) (int64, error) {
	m := d.messages.At(i)
	if growth, ok := d.lengths.get(m.GUID); ok {
		return m.Size + growth, nil
	}
	body, err := d.user.Body(ctx, d.mailbox, m.UID)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	growth, err := growthOf(io.NewSectionReader(body, 0, body.Size()), d.buffer())
	if err != nil {
		return 0, err
	}
	d.lengths.put(m.GUID, growth)
	return m.Size + growth, nil
}

// listed is size for a listing, which must not fail for one message: one that
// is gone or cannot be read is listed with the size that the store knows, and
// RETR will say what is wrong.
func (d *maildrop) listed(ctx context.Context, i int) int64 {
	size, err := d.size(ctx, i)
	if err != nil {
		return d.messages.At(i).Size
	}
	return size
}

// id returns message i's unique-id: its GUID, 32 hexadecimal digits. A copy of
// a message has the original's GUID, and unique-ids must differ within a
// maildrop (RFC 1939 §7): the message with the lowest UID has the GUID alone,
// the others append their UIDs. Once the first is gone, the next takes its id;
// its content is the same, so a client that has fetched it rightly takes it
// for fetched.
func (d *maildrop) id(i int) string {
	if d.ids == nil {
		d.ids = make([]string, d.messages.Len())
		seen := make(map[backend.GUID]bool, len(d.ids))
		for k, m := range d.messages.All() {
			d.ids[k] = m.GUID.String()
			if seen[m.GUID] {
				d.ids[k] += "." + strconv.FormatUint(uint64(m.UID), 10)
			}
			seen[m.GUID] = true
		}
	}
	return d.ids[i]
}

// expunge removes what DELE marked: the UPDATE state.
func (d *maildrop) expunge(ctx context.Context) (int, error) {
	uids := make([]backend.UID, 0, len(d.deleted))
	for i, m := range d.messages.All() {
		if d.deleted[i] {
			uids = append(uids, m.UID)
		}
	}
	if len(uids) == 0 {
		return 0, nil // a nil list would mean every message
	}
	gone, err := d.user.Expunge(ctx, d.mailbox, uids, false)
	return len(gone), err
}
