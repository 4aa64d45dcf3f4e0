package nwauth

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"go.uber.org/zap"

	"switchyard/lookup"
	"switchyard/lookup/nwauth/hash"
)

// ErrClosed is wrapped in what a change answers when the database is closed.
var ErrClosed = errors.New("user database is closed")

// Options for Open. The zero value works.
type Options struct {
	// Argon2 are the costs of hashing new passwords.
	Argon2 hash.Argon2

	// Hashers bounds how many passwords are hashed at the same time. Zero
	// means one for each processor.
	Hashers int

	// HashWait is how long a login waits for its turn to be hashed before it
	// is answered with ErrUnavailable. Zero means 2 seconds.
	HashWait time.Duration

	// LogSize is the size in bytes past which the log is merged into the
	// base; it is merged later while it is small beside the base. Zero means
	// 4 MiB.
	LogSize int64

	Logger *zap.Logger // nil: none
}

func (o Options) withDefaults() Options {
	o.Argon2 = o.Argon2.WithDefaults()
	if o.Hashers <= 0 {
		o.Hashers = runtime.GOMAXPROCS(0)
	}
	if o.HashWait == 0 {
		o.HashWait = 2 * time.Second
	}
	if o.LogSize == 0 {
		o.LogSize = 4 << 20
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

// DB is an open database. It is safe for concurrent use.
type DB struct {
	opts    Options
	hashers *hashers
	table   *table
	decoys  *decoys
	disk    *disk

	queue   chan *request
	closing chan struct{} // closed by Close
	stopped chan struct{} // closed when the committer has ended
	once    sync.Once
}

// Open opens the database in dir, which is made if it is missing. Only one
// process can have it open. It reads everything, and finishes a merge that was
// interrupted. Errors name the file and the line.
func Open(dir string, opts Options) (*DB, error) { return open(dir, opts, nil) }

// open is Open with a hook for tests, called between the steps of writing.
func open(dir string, opts Options, step func(string)) (*DB, error) {
	opts = opts.withDefaults()
	db := &DB{
		opts:    opts,
		hashers: newHashers(opts.Hashers, opts.HashWait),
		table:   newTable(),
		decoys:  newDecoys(),
		queue:   make(chan *request, queueLength),
		closing: make(chan struct{}),
		stopped: make(chan struct{}),
	}
	disk, err := openDisk(dir, db.table, opts, step)
	if err != nil {
		return nil, err
	}
	db.disk = disk
	for l := range db.table.all() {
		db.decoys.offer(l.hash())
	}
	go db.commitLoop()
	return db, nil
}

// Close waits for the changes under way and a merge, and closes the files.
// Changes that come later are answered with ErrUnavailable; lookups still
// work.
func (db *DB) Close() error {
	var err error
	db.once.Do(func() {
		close(db.closing)
		<-db.stopped
		err = db.disk.close()
	})
	return err
}

// Ready returns why no change can be made, nil while all is well.
func (db *DB) Ready(context.Context) error {
	select {
	case <-db.closing:
		return ErrClosed
	default:
		return db.disk.writable()
	}
}

// Len returns the number of users.
func (db *DB) Len() int { return int(db.table.live.Load()) }

// Get returns the record of a clean name. The record is the caller's.
func (db *DB) Get(name string) (Record, bool) { return db.table.get(name) }

// Lookup implements lookup.Directory.
func (db *DB) Lookup(ctx context.Context, name string) (lookup.Account, error) {
	if err := ctx.Err(); err != nil {
		return lookup.Account{}, lookup.Unavailable("look up in the user database", err)
	}
	r, found := db.table.get(name)
	if !found {
		return lookup.Account{}, lookup.ErrAbsent
	}
	return accountOf(r)
}

// Check implements lookup.Directory. A name that nobody has costs as much
// time as one that somebody has: see decoys.
func (db *DB) Check(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	if hash.CheckPassword(c.Password) != nil {
		return lookup.Account{}, lookup.ErrRejected
	}
	r, found := db.table.get(c.Name)
	stored := r.Hash
	usable := found && !hash.Locked(stored)
	if !usable {
		stored = db.decoys.forName(c.Name, db.opts.Argon2)
	}
	var right bool
	var broken error
	if err := db.hashers.do(ctx, func() { right, broken = hash.Verify(stored, c.Password) }); err != nil {
		return lookup.Account{}, err
	}
	switch {
	case !usable:
		return lookup.Account{}, lookup.ErrRejected
	case broken != nil:
		db.opts.Logger.Warn("password hash cannot be verified", zap.String("user", r.Name), zap.Error(broken))
		return lookup.Account{}, lookup.Unavailable("verify the password of "+r.Name, broken)
	case !right:
		return lookup.Account{}, lookup.ErrRejected
	}
	return accountOf(r)
}

func accountOf(r Record) (lookup.Account, error) {
	account, err := r.Account()
	if err != nil {
		return lookup.Account{}, lookup.Unavailable("read the record of "+r.Name, err)
	}
	return account, nil
}
