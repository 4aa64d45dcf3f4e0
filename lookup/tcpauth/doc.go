// Package tcpauth speaks NetWin's authent protocol over TCP, from both ends: a
// lookup.Directory that asks one of several servers, and the server that
// serves a user database.
//
//	C: lookup anna@example.test
//	S: +OK anna@example.test config 0 homegen="1" tohost="b1"
//	C: check anna@example.test wrong 192.0.2.7
//	S: -ERR password wrong or not a valid user
//	C: lookup nobody@example.test
//	S: -ERR no such user
//	C: lookup berta@example.test
//	S: -DEAD user database unavailable
//
// Servers of our own take any number of questions on one connection, tell of
// changes (Client implements lookup.Watcher), tell SCRAM keys to who may have
// them (lookup.KeyHolder), and let replicas copy and follow their database
// (Follow). Old clients and old servers never see any of it.
//
// PROTOCOL.md has the grammar, what its sources leave open, and our
// extensions.
//
// The answers are kept apart: -ERR to a lookup is absent, -ERR to a check is
// rejected, and everything that is not a well-formed answer about the account
// that was asked for is unavailable: -DEAD, a time-out, a closed connection,
// garbage, another account's record.
package tcpauth
