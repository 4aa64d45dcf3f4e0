// Package message reads the structure of Internet messages (RFC 5322, MIME)
// without changing a byte: every header field and every body part is described
// by its place in the message, so that a server can answer ENVELOPE,
// BODYSTRUCTURE and BODY[1.2] from a description made once, and copy the bytes
// that a client asks for straight from the store.
//
// It accepts anything: a message is never refused for being malformed. What
// cannot be understood is described as RFC 2045 §5.2 says, as text/plain or
// application/octet-stream.
package message

// Part describes one MIME entity. Offsets are bytes from the start of the
// message.
type Part struct {
	HeaderStart int64 // first byte of the header
	BodyStart   int64 // first byte behind the empty line; the end of the header
	End         int64 // one past the last byte of the body

	Type        string  // lower case, "text" when missing or unreadable
	Subtype     string  // lower case, "plain" when missing or unreadable
	Params      []Param // of Content-Type, in the order of the message
	ID          string  // Content-ID as it stands
	Description string  // Content-Description as it stands (unfolded)
	Encoding    string  // Content-Transfer-Encoding, lower case; "7bit" when missing
	MD5         string
	Disposition string // lower case, "" when missing
	DispParams  []Param
	Language    []string
	Location    string
	Lines       int64 // lines in the body

	Envelope *Envelope // of the message itself (the root) and of message/rfc822 parts' content

	// Parts holds the parts of a multipart in order. A message/rfc822 part
	// has one: the message inside.
	Parts []*Part
}

// Param is one parameter of a header field: its name in lower case, its value
// without quotes.
type Param struct{ Name, Value string }

// Envelope holds the header fields of RFC 9051 §7.5.2, and References, which
// threads need, as they stand in the message: unfolded, not decoded.
type Envelope struct {
	Date      string
	Subject   string
	From      []Address
	Sender    []Address
	ReplyTo   []Address
	To        []Address
	Cc        []Address
	Bcc       []Address
	InReplyTo string
	MessageID string

	References string // no part of IMAP's envelope
}

// Address is one mailbox of an address list. The start of a group has only
// Mailbox (the group's name) and no Host; its end has neither
// (RFC 9051 §7.5.2).
type Address struct {
	Name    string // as it stands: encoded words are not decoded, quotes are removed
	Mailbox string
	Host    string
	Group   bool // start or end of a group
}
