package effect

import (
	"errors"

	"switchyard/backend"
	"switchyard/backend/effect/pack"
)

// Conformed brings a mailbox to what a merge of two nodes' copies came to, and
// makes it when it is missing. It says what a merge alone can do: a message
// below UIDNEXT, tombstones of messages that were never here, and all attributes
// at once. What it does not name stays as it is. It is the only effect of its
// record on the mailbox; a message may go in one and come in another.
//
// Properties, subscriptions, deliveries and mailboxes that go are effects of
// their own in the same record, so that an account is conformed whole or not.
type Conformed struct {
	Mailbox backend.Mailbox // as it is afterwards; the counters are not told
	Floor   backend.ModSeq  // expunges up to here may be forgotten

	Put  []backend.Message // new, or with other flags and another ModSeq; ascending by UID
	Gone []Gone            // ascending by UID
}

// Gone is an expunged message. If it is here it goes.
type Gone struct {
	UID    backend.UID
	GUID   backend.GUID // zero: of whatever message had the UID
	ModSeq backend.ModSeq
	Was    backend.ModSeq // of the tombstone that this one replaces; zero: there is none
}

func appendConformed(b []byte, e *Conformed) []byte {
	m := &e.Mailbox
	b = pack.String(append(b, m.ID[:]...), m.Name)
	b = pack.String(b, m.Use)
	for _, v := range []uint64{uint64(m.UIDValidity), uint64(m.UIDNext), uint64(m.HighestModSeq), uint64(e.Floor)} {
		b = pack.Uint(b, v)
	}
	b = pack.Uint(b, uint64(len(e.Put)))
	var last backend.UID
	for i := range e.Put {
		b = pack.Uint(b, uint64(e.Put[i].UID-last))
		last = e.Put[i].UID
		b = AppendMessage(b, &e.Put[i])
	}
	b = pack.Uint(b, uint64(len(e.Gone)))
	last = 0
	for _, g := range e.Gone {
		b = append(pack.Uint(b, uint64(g.UID-last)), g.GUID[:]...)
		last = g.UID
		b = pack.Uint(pack.Uint(b, uint64(g.ModSeq)), uint64(g.Was))
	}
	return b
}

func readConformed(in *pack.Reader) Conformed {
	e := Conformed{Mailbox: backend.Mailbox{ID: readGUID(in), Name: in.String(), Use: in.String()}}
	e.Mailbox.UIDValidity, e.Mailbox.UIDNext = in.Uint32(), backend.UID(in.Uint32())
	e.Mailbox.HighestModSeq, e.Floor = backend.ModSeq(in.Uint()), backend.ModSeq(in.Uint())
	var last backend.UID
	for range in.Count(1 + 1 + 16 + 4) {
		last = nextUID(in, last)
		m := ReadMessage(in)
		m.UID = last
		e.Put = append(e.Put, m)
	}
	last = 0
	for range in.Count(1 + 16 + 2) {
		last = nextUID(in, last)
		e.Gone = append(e.Gone, Gone{UID: last, GUID: readGUID(in), ModSeq: backend.ModSeq(in.Uint()), Was: backend.ModSeq(in.Uint())})
	}
	return e
}

// nextUID reads how much further the next UID is.
func nextUID(in *pack.Reader, last backend.UID) backend.UID {
	step := in.Uint32()
	if step == 0 || uint64(last)+uint64(step) > 1<<32-1 {
		in.Fail(errors.New("uids do not ascend"))
		return 0
	}
	return last + backend.UID(step)
}
