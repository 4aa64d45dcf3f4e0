// Package authent is the grammar of NetWin's authent protocol, and of our
// extensions of it: commands and answers as lines of text, whatever carries them.
// lookup/tcpauth speaks it over TCP and has it described in PROTOCOL.md,
// lookup/module over the pipes of a child.
//
//	lookup anna@example.test
//	+OK anna@example.test config 0 tohost="b1"
//
// What cannot be carried is refused with a netwin.RefusedError before it is
// written; what comes and is no answer, or one about something else, is ErrGarbage.
// No error shows a password, a key or the line that it is about.
package authent
