// Package nwauth is a user database in the manner of NetWin's NWAuth: text
// records of the form
//
//	user@domain:hash:label="value" label="value"
//
// held in memory and on disk. It is what tcpauthd serves unless told
// otherwise, and a lookup.Directory by itself.
//
//	db, err := nwauth.Open(dir, nwauth.Options{})
//	…
//	added, err := db.Set(ctx, "anna@example.test", &password, map[string]string{"tohost": "b1"})
//	account, err := db.Lookup(ctx, "anna@example.test")
//
// # On disk
//
//	nwauth.txt      the base: records, sorted by name
//	nwauth.add      the log: a line for each change since, the last one wins
//	nwauth.add.old  the log before, while the two are merged into a new base
//	nwauth.lock     held while the database is open
//
// A change is answered once its line is in the log and the log is synced;
// changes that arrive together share one sync. The process may be killed and
// the machine may lose power at any moment: what was answered is there
// afterwards. A last line of the log without its line end was never answered,
// and is cut off when the database is opened. Any other bad line makes Open
// fail, with its file and number: a record that cannot be read must not become
// a user who does not exist.
//
// The base and the log may begin with a line that only ours have, :: and a
// mark: how many changes came before, and a sum over them. Import and a full
// copy from a primary write a new base and make the logs void at the moment at
// which the base gets its name; see meta in disk.go.
//
// # Changes and replicas
//
// Every durable change is told to who watches (DB implements lookup.Watcher)
// and to replicas: DB.Stream sends the database and then its log, and a Replica
// of another DB takes it over, line by line, under the same marks. A replica
// refuses changes and names its primary.
//
// # Homes
//
// A set that changes tohost without giving homegen raises homegen by one, so
// that each move raises the account's generation. A generation never goes
// down, not even when an account is deleted and made anew: see deletions in
// record.go. This is our addition; everything else in a record is NWAuth's.
package nwauth
