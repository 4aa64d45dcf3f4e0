package effect

import (
	"bytes"
	"fmt"
	"time"

	"switchyard/backend"
	"switchyard/backend/effect/pack"
)

// version is the first byte of every encoded record.
const version = 1

// AppendRecord appends the record's encoding to b.
func AppendRecord(b []byte, r *Record) []byte {
	b = append(b, version, r.Shard)
	b = pack.Uint(b, r.Epoch)
	b = pack.Uint(b, r.Seq)
	b = pack.Uint(b, uint64(r.Time))
	b = pack.String(b, r.User)
	b = pack.Uint(b, uint64(len(r.Digests)))
	for i := range r.Digests {
		b = append(b, r.Digests[i].Mailbox[:]...)
		b = r.Digests[i].Digest.Append(b)
	}
	b = pack.Uint(b, uint64(len(r.Effects)))
	for _, e := range r.Effects {
		b = append(b, byte(e.kind()))
		b = appendEffect(b, e)
	}
	return b
}

func appendEffect(b []byte, e Effect) []byte {
	switch e := e.(type) {
	case UserCreated:
		return pack.Uint(append(b, e.ID[:]...), e.Generation)
	case GenerationSeen:
		return pack.Uint(b, e.Generation)
	case MailboxCreated:
		b = pack.String(append(b, e.Mailbox[:]...), e.Name)
		return pack.String(pack.Uint(b, uint64(e.UIDValidity)), e.Use)
	case MailboxRenamed:
		return pack.String(append(b, e.Mailbox[:]...), e.Name)
	case MailboxUse:
		return pack.String(append(b, e.Mailbox[:]...), e.Use)
	case MailboxDeleted:
		return append(b, e.Mailbox[:]...)
	case Subscribed:
		return pack.Bool(pack.String(b, e.Name), e.On)
	case PropertySet:
		b = pack.String(append(b, e.Mailbox[:]...), e.Name)
		return pack.Bool(pack.Bytes(b, e.Value), e.Gone)
	case MessageAdded:
		b = append(b, e.Mailbox[:]...)
		b = pack.Uint(b, uint64(e.Message.UID))
		return AppendMessage(b, &e.Message)
	case FlagsSet:
		b = pack.Uint(append(b, e.Mailbox[:]...), uint64(e.ModSeq))
		return AppendFlags(b, e.Flags, e.UIDs)
	case Expunged:
		b = pack.Uint(append(b, e.Mailbox[:]...), uint64(e.ModSeq))
		return appendUIDs(b, e.UIDs)
	case Delivered:
		b = append(append(b, e.ID[:]...), e.Mailbox[:]...)
		b = pack.Uint(pack.Uint(b, uint64(e.UIDValidity)), uint64(e.UID))
		return append(b, e.GUID[:]...)
	case Conformed:
		return appendConformed(b, &e)
	case QueueSet:
		b = pack.Bytes(pack.Uint(b, e.ID), e.Entry)
		return pack.Uint(append(b, e.Body[:]...), uint64(e.Size))
	case QueueDeleted:
		return pack.Uint(b, e.ID)
	}
	panic(fmt.Sprintf("effect: unknown type %T", e))
}

// DecodeRecord reads what AppendRecord wrote. It shares no memory with b.
func DecodeRecord(b []byte) (*Record, error) {
	in := pack.NewReader(b)
	if v := in.Byte(); in.Err() == nil && v != version {
		return nil, fmt.Errorf("effect record of version %d, want %d", v, version)
	}
	r := &Record{Shard: in.Byte(), Epoch: in.Uint(), Seq: in.Uint(), Time: Clock(in.Uint()), User: in.String()}
	for range in.Count(16 + digestLen) {
		r.Digests = append(r.Digests, MailboxDigest{Mailbox: readGUID(in), Digest: ReadDigest(in)})
	}
	for range in.Count(2) {
		r.Effects = append(r.Effects, readEffect(in))
		if in.Err() != nil {
			break
		}
	}
	if err := in.End(); err != nil {
		return nil, fmt.Errorf("effect record: %w", err)
	}
	return r, nil
}

func readEffect(in *pack.Reader) Effect {
	switch k := kind(in.Byte()); k {
	case kindUserCreated:
		return UserCreated{ID: readGUID(in), Generation: in.Uint()}
	case kindGenerationSeen:
		return GenerationSeen{Generation: in.Uint()}
	case kindMailboxCreated:
		return MailboxCreated{Mailbox: readGUID(in), Name: in.String(), UIDValidity: in.Uint32(), Use: in.String()}
	case kindMailboxRenamed:
		return MailboxRenamed{Mailbox: readGUID(in), Name: in.String()}
	case kindMailboxUse:
		return MailboxUse{Mailbox: readGUID(in), Use: in.String()}
	case kindMailboxDeleted:
		return MailboxDeleted{Mailbox: readGUID(in)}
	case kindSubscribed:
		return Subscribed{Name: in.String(), On: in.Bool()}
	case kindPropertySet:
		return PropertySet{Mailbox: readGUID(in), Name: in.String(), Value: bytes.Clone(in.Bytes()), Gone: in.Bool()}
	case kindMessageAdded:
		e := MessageAdded{Mailbox: readGUID(in)}
		uid := backend.UID(in.Uint32())
		e.Message = ReadMessage(in)
		e.Message.UID = uid
		return e
	case kindFlagsSet:
		return FlagsSet{Mailbox: readGUID(in), ModSeq: backend.ModSeq(in.Uint()), Flags: in.Strings(), UIDs: readUIDs(in)}
	case kindExpunged:
		return Expunged{Mailbox: readGUID(in), ModSeq: backend.ModSeq(in.Uint()), UIDs: readUIDs(in)}
	case kindDelivered:
		var e Delivered
		in.Fill(e.ID[:])
		e.Appended = backend.Appended{Mailbox: readGUID(in), UIDValidity: in.Uint32(), UID: backend.UID(in.Uint32()), GUID: readGUID(in)}
		return e
	case kindConformed:
		return readConformed(in)
	case kindQueueSet:
		return QueueSet{ID: in.Uint(), Entry: bytes.Clone(in.Bytes()), Body: readGUID(in), Size: in.Size()}
	case kindQueueDeleted:
		return QueueDeleted{ID: in.Uint()}
	default:
		in.Fail(fmt.Errorf("unknown effect %d", k))
		return nil
	}
}

// AppendMessage appends a message's metadata without its UID, which the
// store has in the row's key. Times are whole seconds.
func AppendMessage(b []byte, m *backend.Message) []byte {
	b = pack.Uint(b, uint64(m.ModSeq))
	b = append(b, m.GUID[:]...)
	b = pack.Uint(b, uint64(m.Size))
	b = pack.Int(b, m.InternalDate.Unix())
	b = pack.Int(b, m.SaveDate.Unix())
	return pack.Strings(b, m.Flags)
}

// ReadMessage reads what AppendMessage wrote; UID stays zero.
func ReadMessage(in *pack.Reader) backend.Message {
	m := ReadMessageHead(in)
	m.Flags = in.Strings()
	return m
}

// ReadMessageHead reads what AppendMessage wrote but for the flags, which are
// what follows.
func ReadMessageHead(in *pack.Reader) backend.Message {
	return backend.Message{
		ModSeq: backend.ModSeq(in.Uint()), GUID: readGUID(in), Size: in.Size(),
		InternalDate: time.Unix(in.Int(), 0).UTC(), SaveDate: time.Unix(in.Int(), 0).UTC(),
	}
}

// AppendFlags appends flags and the messages that have them, which must ascend.
func AppendFlags(b []byte, flags []string, uids []backend.UID) []byte {
	return appendUIDs(pack.Strings(b, flags), uids)
}

// ReadFlags reads what AppendFlags wrote.
func ReadFlags(in *pack.Reader) (flags []string, uids []backend.UID) {
	return in.Strings(), readUIDs(in)
}

// appendUIDs appends ascending UIDs as their distances.
func appendUIDs(b []byte, uids []backend.UID) []byte {
	b = pack.Uint(b, uint64(len(uids)))
	var last backend.UID
	for _, u := range uids {
		b = pack.Uint(b, uint64(u-last))
		last = u
	}
	return b
}

func readUIDs(in *pack.Reader) []backend.UID {
	n := in.Count(1)
	if n == 0 {
		return nil
	}
	uids := make([]backend.UID, 0, n)
	var last backend.UID
	for range n {
		if last = nextUID(in, last); in.Err() != nil {
			return nil
		}
		uids = append(uids, last)
	}
	return uids
}

func readGUID(in *pack.Reader) (g backend.GUID) {
	in.Fill(g[:])
	return g
}
