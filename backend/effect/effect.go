// Package effect is the language of the store's log: what a change did, in
// terms that need no decision when they are applied again.
//
// A Record is one change of one user, whole: all its effects happen or none.
// Records of one user always have the same shard; in a shard they are numbered
// by Seq without gaps, and applying them in that order to an empty store gives
// the same state everywhere, byte for byte. That is what recovery does at start
// and what a mirror does all the time. Each record carries the digest of every
// mailbox that it touched as it is afterwards, so that a copy that has drifted
// shows at once.
//
// Effects say nothing of places: a body is named by its GUID, and each node
// keeps it where it likes.
package effect

import (
	"time"

	"switchyard/backend"
)

// Record is one entry of a shard's log.
type Record struct {
	Shard uint8
	Epoch uint64 // grows when the shard's owner changes
	Seq   uint64 // counts from 1 in the shard
	Time  Clock
	User  string // the account; "" for the node's own queue

	Effects []Effect
	Digests []MailboxDigest // of the mailboxes touched, as they are afterwards, ascending by mailbox
}

// MailboxDigest is the digest of a mailbox at one moment.
type MailboxDigest struct {
	Mailbox backend.GUID
	Digest  Digest
}

// Clock is a hybrid logical clock: milliseconds since 1970 above 16 bits that
// count events within one. It never goes back on one node, even when the
// machine's clock does.
type Clock uint64

// Next returns the clock's next value at a moment.
func (c Clock) Next(now time.Time) Clock {
	return max(c+1, Clock(max(now.UnixMilli(), 0))<<16)
}

// Time returns the moment, to the millisecond.
func (c Clock) Time() time.Time { return time.UnixMilli(int64(c >> 16)).UTC() }

// Effect is one of the types below. Within one record each message is touched
// by at most one effect.
type Effect interface{ kind() kind }

// UserCreated begins an account's mail. ID names this life of the account: an
// account that is removed and made again gets another.
type UserCreated struct {
	ID         backend.GUID
	Generation uint64
}

// GenerationSeen raises the newest home generation known for the account.
type GenerationSeen struct{ Generation uint64 }

// MailboxCreated makes a mailbox, empty.
type MailboxCreated struct {
	Mailbox     backend.GUID
	Name        string
	UIDValidity uint32
	Use         string
}

// MailboxRenamed gives a mailbox another name. Renaming a parent is one effect
// for each mailbox below it.
type MailboxRenamed struct {
	Mailbox backend.GUID
	Name    string
}

// MailboxUse sets a mailbox's special use.
type MailboxUse struct {
	Mailbox backend.GUID
	Use     string
}

// MailboxDeleted removes a mailbox with its messages.
type MailboxDeleted struct{ Mailbox backend.GUID }

// Subscribed sets or clears the subscription of a name.
type Subscribed struct {
	Name string
	On   bool
}

// PropertySet keeps a value under a name, for a mailbox, or for the account when
// Mailbox is zero; Gone removes it.
type PropertySet struct {
	Mailbox backend.GUID
	Name    string
	Value   []byte
	Gone    bool
}

// MessageAdded puts a message into a mailbox. The body is named by its GUID.
type MessageAdded struct {
	Mailbox backend.GUID
	Message backend.Message
}

// FlagsSet gives messages of a mailbox these flags instead of the old ones.
type FlagsSet struct {
	Mailbox backend.GUID
	ModSeq  backend.ModSeq
	Flags   []string      // sorted
	UIDs    []backend.UID // ascending
}

// Expunged removes messages.
type Expunged struct {
	Mailbox backend.GUID
	ModSeq  backend.ModSeq
	UIDs    []backend.UID // ascending
}

// Delivered remembers a delivery id and what was answered.
type Delivered struct {
	ID [32]byte
	backend.Appended
}

// QueueSet adds an entry to the node's queue, or replaces what an entry says.
// Body is zero when the entry had its body before.
type QueueSet struct {
	ID    uint64
	Entry []byte
	Body  backend.GUID
	Size  int64 // of the body
}

// QueueDeleted removes an entry and its body from the node's queue.
type QueueDeleted struct{ ID uint64 }

// kind is how an effect's type is written in a record. The numbers are part of
// the format: never reuse one.
type kind uint8

const (
	kindUserCreated    kind = 1
	kindGenerationSeen kind = 2
	kindMailboxCreated kind = 3
	kindMailboxRenamed kind = 4
	kindMailboxUse     kind = 5
	kindMailboxDeleted kind = 6
	kindSubscribed     kind = 7
	kindMessageAdded   kind = 8
	kindFlagsSet       kind = 9
	kindExpunged       kind = 10
	kindDelivered      kind = 11
	kindQueueSet       kind = 12
	kindQueueDeleted   kind = 13
	kindPropertySet    kind = 14
	kindConformed      kind = 15
)

func (UserCreated) kind() kind    { return kindUserCreated }
func (GenerationSeen) kind() kind { return kindGenerationSeen }
func (MailboxCreated) kind() kind { return kindMailboxCreated }
func (MailboxRenamed) kind() kind { return kindMailboxRenamed }
func (MailboxUse) kind() kind     { return kindMailboxUse }
func (MailboxDeleted) kind() kind { return kindMailboxDeleted }
func (Subscribed) kind() kind     { return kindSubscribed }
func (MessageAdded) kind() kind   { return kindMessageAdded }
func (FlagsSet) kind() kind       { return kindFlagsSet }
func (Expunged) kind() kind       { return kindExpunged }
func (Delivered) kind() kind      { return kindDelivered }
func (QueueSet) kind() kind       { return kindQueueSet }
func (QueueDeleted) kind() kind   { return kindQueueDeleted }
func (PropertySet) kind() kind    { return kindPropertySet }
func (Conformed) kind() kind      { return kindConformed }
