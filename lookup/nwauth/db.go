package nwauth

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"switchyard/lookup"
	"switchyard/lookup/internal/hashers"
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

	// Primary names the server that this database is a replica of, for the
	// answer to who wants to change something. Empty means that this is no
	// replica. A replica is changed through its Replica alone.
	Primary string

	// Upgrade makes a login whose password was right replace a hash that is
	// weaker than Argon2 asks for; see hash.Outdated. It has no meaning on a
	// replica.
	Upgrade bool

	Logger *zap.Logger // nil: none
}

func (o Options) withDefaults() Options {
	o.Argon2 = o.Argon2.WithDefaults()
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
	hashers *hashers.Pool
	table   atomic.Pointer[table] // the committer replaces it
	decoys  *decoys
	disk    *disk
	history *history
	empty   atomic.Bool // a replica that has had no copy yet

	queue   chan *request
	upgrade chan upgrade
	closing chan struct{} // closed by Close
	stopped chan struct{} // closed when the committer has ended
	once    sync.Once
	wg      sync.WaitGroup // upgrades
}

// Open opens the database in dir, which is made if it is missing. Only one
// process can have it open. It reads everything, and finishes a merge that was
// interrupted. Errors name the file and the line; ErrLocked.
func Open(dir string, opts Options) (*DB, error) { return open(dir, opts, nil) }

// open is Open with a hook for tests, called between the steps of writing.
func open(dir string, opts Options, step func(string)) (*DB, error) {
	opts = opts.withDefaults()
	if err := opts.Argon2.Check(); err != nil {
		return nil, err
	}
	db := &DB{
		opts:    opts,
		hashers: hashers.New(opts.Hashers, opts.HashWait),
		decoys:  newDecoys(),
		queue:   make(chan *request, queueLength),
		upgrade: make(chan upgrade, upgradeQueue),
		closing: make(chan struct{}),
		stopped: make(chan struct{}),
	}
	disk, content, err := openDisk(dir, opts, step)
	if err != nil {
		return nil, err
	}
	db.disk = disk
	db.table.Store(content.table)
	db.empty.Store(opts.Primary != "" && content.fresh)
	db.history = newHistory(content.start)
	db.history.publish(content.events)
	db.offerAll()
	go db.commitLoop()
	db.wg.Go(db.upgradeLoop)
	return db, nil
}

// Close waits for the changes under way and a merge, and closes the files.
// Changes that come later are answered with ErrUnavailable; lookups still
// work.
func (db *DB) Close() error {
	var err error
	db.once.Do(func() {
		close(db.closing)
		db.wg.Wait()
		<-db.stopped
		err = db.disk.close()
	})
	return err
}

// Ready returns why no change can be made, or on a replica why nothing can be
// answered; nil while all is well.
func (db *DB) Ready(context.Context) error {
	select {
	case <-db.closing:
		return ErrClosed
	default:
		return errors.Join(db.whole(), db.disk.writable())
	}
}

// whole returns ErrUnavailable while a replica knows nothing: nobody is absent
// because of that.
func (db *DB) whole() error {
	if db.empty.Load() {
		return lookup.Unavailable("ask a replica", errors.New("there is no copy of the primary's users yet"))
	}
	return nil
}

// Len returns the number of users.
func (db *DB) Len() int { return int(db.table.Load().live.Load()) }

// Get returns the record of a clean name. The record is the caller's.
func (db *DB) Get(name string) (Record, bool) { return db.table.Load().get(name) }

// Lookup implements lookup.Directory.
func (db *DB) Lookup(ctx context.Context, name string) (lookup.Account, error) {
	if err := ctx.Err(); err != nil {
		return lookup.Account{}, lookup.Unavailable("look up in the user database", err)
	}
	if err := db.whole(); err != nil {
		return lookup.Account{}, err
	}
	r, found := db.table.Load().get(name)
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
	if err := db.whole(); err != nil {
		return lookup.Account{}, err
	}
	r, found := db.table.Load().get(c.Name)
	stored := r.Hash
	usable := found && !hash.Locked(stored)
	if !usable {
		stored = db.decoys.forName(c.Name, db.opts.Argon2)
	}
	var right bool
	var broken error
	if err := db.hashers.Do(ctx, func() { right, broken = hash.Verify(stored, c.Password) }); err != nil {
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
	db.offerUpgrade(r, c.Password)
	return accountOf(r)
}

// Hashing returns how many passwords are being hashed, how many callers wait for
// their turn, and how many have waited in vain since the database was opened.
func (db *DB) Hashing() (running, waiting int, refused uint64) { return db.hashers.Load() }

// AppendAnswer appends what an account is as text, the labels of its record in
// the form label="value" with a space between two, without taking anything
// apart: for who passes it on as it is. It never waits. Errors as Lookup's.
func (db *DB) AppendAnswer(dst []byte, name string) ([]byte, error) {
	if err := db.whole(); err != nil {
		return dst, err
	}
	rest, found := db.table.Load().rest(name)
	if !found {
		return dst, lookup.ErrAbsent
	}
	_, labels, _ := strings.Cut(rest, ":")
	return append(dst, labels...), nil
}

func accountOf(r Record) (lookup.Account, error) {
	account, err := r.Account()
	if err != nil {
		return lookup.Account{}, lookup.Unavailable("read the record of "+r.Name, err)
	}
	return account, nil
}
