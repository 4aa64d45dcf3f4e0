// Package textindex answers where a text occurs without reading messages. It is
// a cache: everything in it can be made again from the store, nothing in it is
// synced, and a crash may cost what was added last.
//
// # What is kept
//
// A message's texts (its header's fields; its text parts, decoded; the headers
// of its parts), folded as i;unicode-casemap compares them, are cut into words:
// runs of ASCII letters and digits and of everything that is not ASCII. Each
// account has blocks of up to 4,096 messages. A block has the sorted list of its
// words, and for each word the messages that have it, in the header or in the
// body. Messages are known by their GUID, so that copies and moves cost nothing,
// and a message's words never change.
//
// # How a question is answered
//
// A search in IMAP is for any part of a text (RFC 9051 §6.4.4), so the words of
// a block are themselves searched for the needle: a needle of one word is
// answered without reading any message. A needle of several words, such as an
// address, is looked up word by word, the first as a word's end, the last as a
// word's beginning; the messages that have them all may have the needle, and
// have to be read. So do messages with words that were too many or too long to
// be kept, and messages that are not in the index.
//
// # When messages come in
//
// A search first adds the messages of its mailbox that are missing. Whoever
// never searches costs nothing.
package textindex
