package store

import (
	"encoding/binary"
	"errors"

	"switchyard/backend"
)

// The key space of one Pebble instance. Numbers are big-endian, so that keys
// sort as the numbers do.
//
//	A shard                          what of the shard's log is applied
//	L shard seq:8                    a record of the log
//	N account                        the id of the account
//	S segment:4                      how much of a body segment is live (merged)
//	X time:8 id:16 delivery:32       a dedupe row to expire
//	U id:16 r                        the account itself
//	U id:16 m mailbox:16             a mailbox
//	U id:16 s name                   a subscription
//	U id:16 e mailbox:16 uid:4       a message in a mailbox
//	U id:16 t mailbox:16 modseq:8 uid:4   an expunged one
//	U id:16 b guid:16                where a body is, and how many messages have it
//	U id:16 p guid:16                its structure; can be made again from the body
//	U id:16 d delivery:32            a delivery id and what was answered
//	U id:16 q number:8               an entry of the node's queue (id zero)
const (
	spaceApplied = 'A'
	spaceLog     = 'L'
	spaceName    = 'N'
	spaceSegment = 'S'
	spaceExpiry  = 'X'
	spaceUser    = 'U'

	rowUser         = 'r'
	rowMailbox      = 'm'
	rowSubscription = 's'
	rowMessage      = 'e'
	rowTombstone    = 't'
	rowBody         = 'b'
	rowStructure    = 'p'
	rowDelivery     = 'd'
	rowQueue        = 'q'
)

var errKey = errors.New("key of an unknown form")

func keyApplied(shard uint8) []byte { return []byte{spaceApplied, shard} }

func keyLog(shard uint8, seq uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{spaceLog, shard}, seq)
}

func keyName(account string) []byte { return append([]byte{spaceName}, account...) }

func keySegment(id uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{spaceSegment}, id)
}

func keyExpiry(unix int64, user backend.GUID, delivery [32]byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte{spaceExpiry}, uint64(unix))
	return append(append(b, user[:]...), delivery[:]...)
}

// parseExpiry reads what keyExpiry made.
func parseExpiry(key []byte) (unix int64, user backend.GUID, delivery [32]byte, err error) {
	if len(key) != 1+8+16+32 || key[0] != spaceExpiry {
		return 0, user, delivery, errKey
	}
	copy(user[:], key[9:])
	copy(delivery[:], key[25:])
	return int64(binary.BigEndian.Uint64(key[1:])), user, delivery, nil
}

// keyUser is a key of an account; more is what follows the row's letter.
func keyUser(user backend.GUID, row byte, more ...byte) []byte {
	b := make([]byte, 0, 18+len(more)+12)
	b = append(append(append(b, spaceUser), user[:]...), row)
	return append(b, more...)
}

func keyMailbox(user, mailbox backend.GUID) []byte { return keyUser(user, rowMailbox, mailbox[:]...) }

func keySubscription(user backend.GUID, name string) []byte {
	return keyUser(user, rowSubscription, []byte(name)...)
}

func keyMessage(user, mailbox backend.GUID, uid backend.UID) []byte {
	return binary.BigEndian.AppendUint32(keyUser(user, rowMessage, mailbox[:]...), uint32(uid))
}

func keyTombstone(user, mailbox backend.GUID, seq backend.ModSeq, uid backend.UID) []byte {
	b := binary.BigEndian.AppendUint64(keyUser(user, rowTombstone, mailbox[:]...), uint64(seq))
	return binary.BigEndian.AppendUint32(b, uint32(uid))
}

func keyBody(user, guid backend.GUID) []byte      { return keyUser(user, rowBody, guid[:]...) }
func keyStructure(user, guid backend.GUID) []byte { return keyUser(user, rowStructure, guid[:]...) }

func keyDelivery(user backend.GUID, id [32]byte) []byte { return keyUser(user, rowDelivery, id[:]...) }

func keyQueue(number uint64) []byte {
	return binary.BigEndian.AppendUint64(keyUser(backend.GUID{}, rowQueue), number)
}

// parseMessage reads the UID of a message's key.
func parseMessage(key []byte) (mailbox backend.GUID, uid backend.UID, err error) {
	if len(key) != 18+16+4 || key[0] != spaceUser || key[17] != rowMessage {
		return mailbox, 0, errKey
	}
	copy(mailbox[:], key[18:])
	return mailbox, backend.UID(binary.BigEndian.Uint32(key[34:])), nil
}

// parseTombstone reads a tombstone's key.
func parseTombstone(key []byte) (mailbox backend.GUID, seq backend.ModSeq, uid backend.UID, err error) {
	if len(key) != 18+16+8+4 || key[0] != spaceUser || key[17] != rowTombstone {
		return mailbox, 0, 0, errKey
	}
	copy(mailbox[:], key[18:])
	return mailbox, backend.ModSeq(binary.BigEndian.Uint64(key[34:])), backend.UID(binary.BigEndian.Uint32(key[42:])), nil
}

// parseGUID reads the GUID at the end of the key of a mailbox or a body.
func parseGUID(key []byte) (guid backend.GUID, err error) {
	if len(key) != 18+16 || key[0] != spaceUser {
		return guid, errKey
	}
	copy(guid[:], key[18:])
	return guid, nil
}

// parseQueue reads the number of a queue entry's key.
func parseQueue(key []byte) (uint64, error) {
	if len(key) != 18+8 || key[0] != spaceUser || key[17] != rowQueue {
		return 0, errKey
	}
	return binary.BigEndian.Uint64(key[18:]), nil
}

// after returns the first key behind all that begin with prefix, nil when
// there is none.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}
