// Package postgres is a user database in PostgreSQL, so that several tcpauthd
// that hold nothing themselves serve the same users. What a change means is
// what it means to the embedded database, package nwauth.
//
//	db, err := postgres.Open(ctx, "postgres://tcpauthd@db1,db2/mail?sslmode=verify-full", passwords, postgres.Options{})
//	…
//	added, err := db.Set(ctx, "anna@example.test", &password, map[string]string{"tohost": "b1"})
//	account, err := db.Lookup(ctx, "anna@example.test")
//
// # In the database
//
// Everything is in the schema switchyard, which Open makes and brings up to
// date; see migrations. An account is a row of switchyard.users. The log of
// changes, switchyard.changes, is written by triggers, so that a change made
// with plain SQL is told of like any other:
//
//	UPDATE switchyard.users SET labels = labels || '{"mailstatus": "suspended"}' WHERE name = 'anna@example.test';
//
// # What is believed
//
// An account is absent only if a server that takes writes says so, and with
// row security off: a standby may be behind, and a policy may hide rows. Any
// trouble with the database, a record that cannot be read among it, is
// lookup.ErrUnavailable.
//
// A change is acknowledged when PostgreSQL has committed it to its disk;
// synchronous_commit is switched on where a database has it off.
//
// # Homes
//
// A set that changes tohost without giving homegen raises homegen by one. A
// generation never goes down, not even when an account is deleted and made
// anew.
package postgres
