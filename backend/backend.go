// Package backend is the vocabulary of a mail store: users, mailboxes,
// messages, the errors, and the interfaces through which the servers (imap,
// pop, smtp) use a store.
//
// A user's mail lives on exactly one backend. The store's promise, which every
// implementation keeps and backendtest checks:
//
//   - A method that changes something and returns nil has made the change
//     durable: a crash right after it does not lose it.
//   - A change is seen by others only once it is durable, whole, and in order:
//     UIDs in a mailbox become visible in ascending order, and a ModSeq that
//     was seen is never given again to something else.
//   - A UID names one message for ever under its mailbox's UIDVALIDITY
//     (RFC 9051 §2.3.1.1), also across crashes.
//   - A method that fails has changed nothing that a client could notice,
//     unless the error is ErrOutcomeUnknown.
//
// All methods are safe for concurrent use. Methods that take a context may
// block on the disk, on the user's lock and (in a mirror) on the peer.
package backend

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"time"

	"switchyard/internal/message"
)

// The store's errors. Servers turn them into replies in one place each.
var (
	ErrNoUser        = errors.New("user has no mail here")
	ErrNoMailbox     = errors.New("no such mailbox")
	ErrMailboxExists = errors.New("mailbox already exists")
	ErrMailboxName   = errors.New("mailbox name not allowed")
	ErrInbox         = errors.New("not possible with INBOX")
	ErrHasChildren   = errors.New("mailbox has children")
	ErrNoMessage     = errors.New("message is gone")
	ErrTooBig        = errors.New("message too big")
	ErrOverQuota     = errors.New("over quota")
	ErrFlag          = errors.New("flag not allowed")
	ErrTooMany       = errors.New("too many mailboxes or keywords")

	// ErrMoved says that the account's home is another backend. It is
	// temporary: the proxy asks the directory again.
	ErrMoved = errors.New("account lives elsewhere")

	// ErrBusy says that the store cannot do it now (disk full, peer lost,
	// shutting down). Nothing has changed; trying again later is right.
	ErrBusy = errors.New("store cannot do this now")

	// ErrOutcomeUnknown says that the change may or may not have been made.
	ErrOutcomeUnknown = errors.New("outcome unknown")
)

// UID is a message's unique identifier in its mailbox. Zero is none.
type UID uint32

// ModSeq is a modification sequence of a mailbox (RFC 7162), 63 bits. Zero is
// before everything.
type ModSeq uint64

// GUID identifies a mailbox, or a message instance, for ever and everywhere:
// across renames, moves to another backend and both nodes of a mirror. COPY
// and MOVE keep a message's GUID, since the content is the same. It serves as
// MAILBOXID and EMAILID (RFC 8474).
type GUID [16]byte

func (g GUID) String() string { return hex.EncodeToString(g[:]) }

// IsZero reports whether g is no GUID.
func (g GUID) IsZero() bool { return g == GUID{} }

// Mailbox is a mailbox's attributes at one moment.
type Mailbox struct {
	ID            GUID
	Name          string // full path in UTF-8, levels separated by Separator; INBOX is always "INBOX"
	UIDValidity   uint32
	UIDNext       UID
	HighestModSeq ModSeq
	Messages      uint32
	Unseen        uint32 // messages without \Seen
	Deleted       uint32 // messages with \Deleted
	Size          int64  // sum of the messages' sizes in bytes
	Use           string // special use (RFC 6154), such as "\\Sent", or ""
}

// Separator divides the levels of a mailbox name.
const Separator = "/"

// Inbox is the name of every user's first mailbox, in any case on the wire.
const Inbox = "INBOX"

// The system flags (RFC 9051 §2.3.2), spelt canonically. \Recent is a
// session's affair and is never stored.
const (
	FlagSeen     = `\Seen`
	FlagAnswered = `\Answered`
	FlagFlagged  = `\Flagged`
	FlagDeleted  = `\Deleted`
	FlagDraft    = `\Draft`
)

// Message is one message's metadata at one moment. Values are shared between
// sessions: read only.
type Message struct {
	UID          UID
	ModSeq       ModSeq
	GUID         GUID
	Size         int64 // bytes as they were received, RFC822.SIZE
	InternalDate time.Time
	SaveDate     time.Time // when it came into this mailbox (RFC 8514)
	Flags        []string  // sorted, each once; system flags spelt canonically
}

// Incoming is a message on its way in. Body is read once or twice from the
// start; it stays the caller's and must not change until the call returns.
type Incoming struct {
	Body         io.ReaderAt
	Size         int64
	Flags        []string
	InternalDate time.Time // zero: now
}

// Appended tells where a message went.
type Appended struct {
	Mailbox     GUID
	UIDValidity uint32
	UID         UID
	GUID        GUID
}

// Delivery is a message delivered by LMTP or by the local end of the queue.
type Delivery struct {
	Incoming

	// Mailbox is the wanted mailbox; a mailbox that does not exist, and the
	// empty name, mean INBOX.
	Mailbox string

	// ID is the delivery id (see DeliveryID): a second delivery with an id
	// that this user received in the last seven days stores nothing and
	// answers as the first did. The row that remembers it is written with the
	// message, atomically. A zero ID always stores.
	ID [32]byte
}

// Delivered tells what became of a delivery.
type Delivered struct {
	Appended
	Duplicate bool // it was there already: nothing was stored now
}

// FlagOp is what SetFlags does with the flags that it is given.
type FlagOp int

// The three ways to change flags (RFC 9051 §6.4.6).
const (
	FlagsReplace FlagOp = iota
	FlagsAdd
	FlagsRemove
)

// FlagChange describes one STORE.
type FlagChange struct {
	Op    FlagOp
	Flags []string

	// UnchangedSince makes the change conditional, message by message: those
	// with a higher ModSeq are left alone and returned as failed (RFC 7162
	// §3.1.3). Zero means no condition.
	UnchangedSince ModSeq
}

// Copied tells where copies went: Source[i] became Dest[i].
type Copied struct {
	Mailbox     GUID // the destination
	UIDValidity uint32
	Source      []UID
	Dest        []UID
}

// The bounds of properties: bytes of a name and of a value, and how many a
// mailbox or an account may have.
const (
	MaxPropertyName = 512
	MaxProperty     = 256 << 10
	MaxProperties   = 1000
)

// Quota is an amount of mail, used or allowed. As a limit, zero is none.
type Quota struct {
	Bytes    int64 // sum of the messages' sizes, in all mailboxes
	Messages int64
}

// Store holds the mail of many users. It knows nothing of passwords or of who
// may do what: that is decided before it is asked.
type Store interface {
	// User opens the mail of an account that exists here.
	// Errors: ErrNoUser, ErrBusy.
	User(ctx context.Context, account string) (User, error)

	// CreateUser opens the mail of an account and makes its mailboxes first
	// if it has none: INBOX, and Drafts, Sent, Junk, Trash and Archive with
	// their special uses, subscribed. It remembers the account's home
	// generation if that is newer than the one known.
	CreateUser(ctx context.Context, account string, generation uint64) (User, error)

	// Generation returns the newest home generation seen for the account.
	// Errors: ErrNoUser, ErrBusy.
	Generation(ctx context.Context, account string) (uint64, error)

	// Users calls each for every account that has mail here, in no order,
	// until each returns false.
	Users(ctx context.Context, each func(account string) bool) error
}

// User is one account's mail. A value is cheap and may be kept as long as the
// session; it needs no closing.
type User interface {
	Account() string

	// Mailboxes returns all mailboxes, INBOX first, the rest ordered by name
	// so that parents come before their children.
	Mailboxes(ctx context.Context) ([]Mailbox, error)

	// Mailbox returns one by name. Errors: ErrNoMailbox.
	Mailbox(ctx context.Context, name string) (Mailbox, error)

	// Create makes a mailbox and the missing ones above it. Use is a special
	// use or "". Errors: ErrMailboxExists, ErrMailboxName, ErrTooMany.
	Create(ctx context.Context, name, use string) (Mailbox, error)

	// Delete removes a mailbox and its messages. Errors: ErrNoMailbox,
	// ErrInbox, ErrHasChildren (which stay: delete them first).
	Delete(ctx context.Context, name string) error

	// Rename renames a mailbox and everything below it, and makes the
	// missing mailboxes above the new name. Renaming INBOX moves its messages
	// into a new mailbox and leaves INBOX empty (RFC 9051 §6.3.6).
	// Errors: ErrNoMailbox, ErrMailboxExists, ErrMailboxName.
	Rename(ctx context.Context, from, to string) error

	// Subscribe and unsubscribe. The name need not exist (RFC 9051 §6.3.7).
	Subscribe(ctx context.Context, name string, on bool) error

	// Subscriptions returns the subscribed names, sorted.
	Subscriptions(ctx context.Context) ([]string, error)

	// Properties returns the values kept under names that begin with prefix,
	// for a mailbox, or for the account when mailbox is zero: what servers
	// remember beside the mail (annotations, rights, scripts). A mailbox that
	// is gone has none. The maps and values are the caller's.
	Properties(ctx context.Context, mailbox GUID, prefix string) (map[string][]byte, error)

	// SetProperties keeps values under names, in one step; a nil value removes
	// its name. A mailbox's properties go with it when it is renamed, and when
	// it is deleted. Names have 1 to MaxPropertyName bytes and values up to
	// MaxProperty. Errors: ErrNoMailbox, ErrTooBig, ErrTooMany, ErrBusy.
	SetProperties(ctx context.Context, mailbox GUID, values map[string][]byte) error

	// Limit sets how much the account may have from now on. It is remembered as
	// long as anybody uses the account's mail and a while longer: whoever opens
	// it says it again. What is there already stays.
	Limit(limit Quota)

	// Quota returns how much the account has, and the limit that was set last.
	Quota(ctx context.Context) (used, limit Quota, err error)

	// View returns the messages of a mailbox at this moment, with its
	// attributes. It is cheap when another session has the mailbox open.
	// Errors: ErrNoMailbox.
	View(ctx context.Context, mailbox GUID) (View, error)

	// Watch reports changes to a mailbox: messages, flags, its deletion. The
	// caller closes the Watch.
	Watch(mailbox GUID) *Watch

	// Append adds messages to a mailbox, all or none (RFC 3502).
	// Errors: ErrNoMailbox, ErrFlag, ErrTooBig, ErrOverQuota, ErrBusy.
	Append(ctx context.Context, mailbox string, messages []Incoming) ([]Appended, error)

	// Deliver adds a message that came by SMTP or LMTP.
	// Errors: ErrTooBig, ErrOverQuota, ErrBusy.
	Deliver(ctx context.Context, d Delivery) (Delivered, error)

	// SetFlags changes flags, all messages in one step. UIDs that are gone
	// are passed over. It returns the messages that exist, as they are now
	// (also those that did not change), in the order of their UIDs, and the
	// UIDs that UnchangedSince held back.
	SetFlags(ctx context.Context, mailbox GUID, uids []UID, change FlagChange) (now []Message, held []UID, err error)

	// Copy copies messages into another mailbox, all or none; UIDs that are
	// gone are passed over. Move does the same and removes them from here in
	// the same step.
	// Errors: ErrNoMailbox (source or destination), ErrOverQuota, ErrBusy.
	Copy(ctx context.Context, mailbox GUID, uids []UID, to string) (Copied, error)
	Move(ctx context.Context, mailbox GUID, uids []UID, to string) (Copied, error)

	// Expunge removes the messages among uids that carry \Deleted when
	// onlyDeleted, else all of them; uids nil means every message. It returns
	// the UIDs that it removed, ascending.
	Expunge(ctx context.Context, mailbox GUID, uids []UID, onlyDeleted bool) ([]UID, error)

	// Vanished returns the UIDs expunged after since, ascending. ok is false
	// when the store no longer remembers that far back (RFC 7162 §3.2.5.2).
	Vanished(ctx context.Context, mailbox GUID, since ModSeq) (uids []UID, ok bool, err error)

	// Body opens a message's bytes, exactly as they were received. The
	// caller closes it. Errors: ErrNoMessage.
	Body(ctx context.Context, mailbox GUID, uid UID) (Body, error)

	// Structure returns the message's parsed structure, made once when the
	// message arrived. Shared: read only. Errors: ErrNoMessage.
	Structure(ctx context.Context, mailbox GUID, uid UID) (*message.Part, error)
}

// Body is a message's bytes at rest. ReadAt may block on the disk; a damaged
// record is an error that is not io.EOF, never wrong bytes.
type Body interface {
	io.ReaderAt
	io.Closer
	Size() int64
}
