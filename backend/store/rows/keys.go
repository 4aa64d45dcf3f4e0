// Package rows is the form of the store's rows in Pebble: their keys (keys.go),
// what they say (rows.go, live.go), and how they are read (read.go). It knows
// nothing of changes or of who may see what.
package rows

import (
	"encoding/binary"
	"errors"

	"switchyard/backend"
)

// The key space of one Pebble instance. Numbers are big-endian, so that keys
// sort as the numbers do.
//
//	A shard                          what of the shard's log is applied
//	B shard guid:16                  a body from the other node whose record is not applied
//	E shard                          the epochs of the shard's log before the newest
//	L shard seq:8                    a record of the log
//	N account                        the id of the account
//	Q account                        an account whose log does not fit its state
//	S segment:4                      how much of a body segment is live (merged)
//	X time:8 id:16 delivery:32       a dedupe row to expire
//	U id:16 r                        the account itself
//	U id:16 m mailbox:16             a mailbox
//	U id:16 s name                   a subscription
//	U id:16 e mailbox:16 uid:4       a message in a mailbox
//	U id:16 f mailbox:16 modseq:8 n:4   new flags of many messages, over their rows
//	U id:16 t mailbox:16 modseq:8 uid:4   an expunged one
//	U id:16 b guid:16                where a body is, and how many messages have it
//	U id:16 p guid:16                its structure; can be made again from the body
//	U id:16 d delivery:32            a delivery id and what was answered
//	U id:16 a mailbox:16 name        a property; of the account when mailbox is zero
//	U id:16 q number:8               an entry of the node's queue (id zero)
const (
	SpaceApplied    = 'A'
	SpaceArrived    = 'B'
	SpaceEpochs     = 'E'
	SpaceLog        = 'L'
	SpaceName       = 'N'
	SpaceQuarantine = 'Q'
	SpaceSegment    = 'S'
	SpaceExpiry     = 'X'
	SpaceUser       = 'U'

	RowUser         = 'r'
	RowMailbox      = 'm'
	RowSubscription = 's'
	RowMessage      = 'e'
	RowFlags        = 'f'
	RowTombstone    = 't'
	RowBody         = 'b'
	RowStructure    = 'p'
	RowDelivery     = 'd'
	RowProperty     = 'a'
	RowQueue        = 'q'
)

// ErrKey says that a key is none that this package makes.
var ErrKey = errors.New("key of an unknown form")

func KeyApplied(shard uint8) []byte { return []byte{SpaceApplied, shard} }

func KeyEpochs(shard uint8) []byte { return []byte{SpaceEpochs, shard} }

func KeyArrived(shard uint8, guid backend.GUID) []byte {
	return append([]byte{SpaceArrived, shard}, guid[:]...)
}

// ParseArrived reads the GUID of KeyArrived.
func ParseArrived(key []byte) (guid backend.GUID, err error) {
	if len(key) != 2+16 || key[0] != SpaceArrived {
		return guid, ErrKey
	}
	copy(guid[:], key[2:])
	return guid, nil
}

func KeyLog(shard uint8, seq uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{SpaceLog, shard}, seq)
}

func KeyName(account string) []byte { return append([]byte{SpaceName}, account...) }

func KeyQuarantine(account string) []byte { return append([]byte{SpaceQuarantine}, account...) }

func KeySegment(id uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{SpaceSegment}, id)
}

func KeyExpiry(unix int64, user backend.GUID, delivery [32]byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte{SpaceExpiry}, uint64(unix))
	return append(append(b, user[:]...), delivery[:]...)
}

// ParseExpiry reads what KeyExpiry made.
func ParseExpiry(key []byte) (unix int64, user backend.GUID, delivery [32]byte, err error) {
	if len(key) != 1+8+16+32 || key[0] != SpaceExpiry {
		return 0, user, delivery, ErrKey
	}
	copy(user[:], key[9:])
	copy(delivery[:], key[25:])
	return int64(binary.BigEndian.Uint64(key[1:])), user, delivery, nil
}

// KeyUser is a key of an account; more is what follows the row's letter.
func KeyUser(user backend.GUID, row byte, more ...byte) []byte {
	b := make([]byte, 0, 18+len(more)+12)
	b = append(append(append(b, SpaceUser), user[:]...), row)
	return append(b, more...)
}

func KeyMailbox(user, mailbox backend.GUID) []byte { return KeyUser(user, RowMailbox, mailbox[:]...) }

func KeySubscription(user backend.GUID, name string) []byte {
	return KeyUser(user, RowSubscription, []byte(name)...)
}

// KeyProperty is a property's key, or with a part of the name the start of
// several.
func KeyProperty(user, mailbox backend.GUID, name string) []byte {
	return append(KeyUser(user, RowProperty, mailbox[:]...), name...)
}

func KeyMessage(user, mailbox backend.GUID, uid backend.UID) []byte {
	return binary.BigEndian.AppendUint32(KeyUser(user, RowMessage, mailbox[:]...), uint32(uid))
}

func KeyTombstone(user, mailbox backend.GUID, seq backend.ModSeq, uid backend.UID) []byte {
	b := binary.BigEndian.AppendUint64(KeyUser(user, RowTombstone, mailbox[:]...), uint64(seq))
	return binary.BigEndian.AppendUint32(b, uint32(uid))
}

// KeyFlags is the key of the nth row of flags of one change.
func KeyFlags(user, mailbox backend.GUID, seq backend.ModSeq, n uint32) []byte {
	b := binary.BigEndian.AppendUint64(KeyUser(user, RowFlags, mailbox[:]...), uint64(seq))
	return binary.BigEndian.AppendUint32(b, n)
}

func KeyBody(user, guid backend.GUID) []byte      { return KeyUser(user, RowBody, guid[:]...) }
func KeyStructure(user, guid backend.GUID) []byte { return KeyUser(user, RowStructure, guid[:]...) }

func KeyDelivery(user backend.GUID, id [32]byte) []byte { return KeyUser(user, RowDelivery, id[:]...) }

func KeyQueue(number uint64) []byte {
	return binary.BigEndian.AppendUint64(KeyUser(backend.GUID{}, RowQueue), number)
}

// ParseMessage reads the UID of a message's key.
func ParseMessage(key []byte) (mailbox backend.GUID, uid backend.UID, err error) {
	if len(key) != 18+16+4 || key[0] != SpaceUser || key[17] != RowMessage {
		return mailbox, 0, ErrKey
	}
	copy(mailbox[:], key[18:])
	return mailbox, backend.UID(binary.BigEndian.Uint32(key[34:])), nil
}

// ParseFlags reads the ModSeq of the key of a row of flags.
func ParseFlags(key []byte) (backend.ModSeq, error) {
	if len(key) != 18+16+8+4 || key[0] != SpaceUser || key[17] != RowFlags {
		return 0, ErrKey
	}
	return backend.ModSeq(binary.BigEndian.Uint64(key[34:])), nil
}

// ParseTombstone reads a tombstone's key.
func ParseTombstone(key []byte) (mailbox backend.GUID, seq backend.ModSeq, uid backend.UID, err error) {
	if len(key) != 18+16+8+4 || key[0] != SpaceUser || key[17] != RowTombstone {
		return mailbox, 0, 0, ErrKey
	}
	copy(mailbox[:], key[18:])
	return mailbox, backend.ModSeq(binary.BigEndian.Uint64(key[34:])), backend.UID(binary.BigEndian.Uint32(key[42:])), nil
}

// ParseGUID reads the GUID at the end of the key of a mailbox or a body.
func ParseGUID(key []byte) (guid backend.GUID, err error) {
	if len(key) != 18+16 || key[0] != SpaceUser {
		return guid, ErrKey
	}
	copy(guid[:], key[18:])
	return guid, nil
}

// ParseQueue reads the number of a queue entry's key.
func ParseQueue(key []byte) (uint64, error) {
	if len(key) != 18+8 || key[0] != SpaceUser || key[17] != RowQueue {
		return 0, ErrKey
	}
	return binary.BigEndian.Uint64(key[18:]), nil
}

// After returns the first key behind all that begin with prefix, nil when
// there is none.
func After(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}
