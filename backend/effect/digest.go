package effect

import (
	"encoding/binary"

	"github.com/zeebo/xxh3"

	"switchyard/backend"
	"switchyard/backend/effect/pack"
)

// Digest is a 128-bit number, most significant half first. The digest of a
// mailbox is the sum, modulo 2^128, of a hash over each of its messages and of
// one over its own attributes. A sum does not depend on the order, is kept up
// to date at the cost of the messages that changed, and unlike an exclusive or
// does not lose pairs that are equal.
type Digest struct{ Hi, Lo uint64 }

const digestLen = 16

// Add returns d + o.
func (d Digest) Add(o Digest) Digest {
	lo := d.Lo + o.Lo
	hi := d.Hi + o.Hi
	if lo < d.Lo {
		hi++
	}
	return Digest{hi, lo}
}

// Sub returns d - o.
func (d Digest) Sub(o Digest) Digest {
	hi := d.Hi - o.Hi
	if d.Lo < o.Lo {
		hi--
	}
	return Digest{hi, d.Lo - o.Lo}
}

// Append appends the digest's 16 bytes.
func (d Digest) Append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, d.Hi), d.Lo)
}

// ReadDigest reads what Append wrote.
func ReadDigest(in *pack.Reader) Digest {
	var raw [digestLen]byte
	in.Fill(raw[:])
	return Digest{binary.BigEndian.Uint64(raw[:8]), binary.BigEndian.Uint64(raw[8:])}
}

// digestOf hashes for the detection of drift, by accident or by a fault: nobody
// gains by making two mailboxes of one account look alike.
func digestOf(b []byte) Digest {
	sum := xxh3.Hash128(b)
	return Digest{sum.Hi, sum.Lo}
}

// OfMessage returns the hash of a message as it stands in a mailbox.
func OfMessage(m *backend.Message) Digest {
	var space [192]byte
	b := append(space[:0], "message 2\x00"...)
	b = pack.Uint(b, uint64(m.UID))
	return digestOf(AppendMessage(b, m))
}

// OfMailbox returns the digest of a mailbox: messages is the sum of OfMessage
// over its messages.
func OfMailbox(m *backend.Mailbox, messages Digest) Digest {
	var space [192]byte
	b := append(space[:0], "mailbox 2\x00"...)
	b = append(b, m.ID[:]...)
	b = pack.String(b, m.Name)
	b = pack.Uint(b, uint64(m.UIDValidity))
	b = pack.Uint(b, uint64(m.UIDNext))
	b = pack.Uint(b, uint64(m.HighestModSeq))
	b = pack.String(b, m.Use)
	return messages.Add(digestOf(b))
}
