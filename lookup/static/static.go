// Package static is a directory held in memory: the accounts of a file, of a
// test or of a demonstration. Who reads the file gives the records to New and,
// after a change, to Replace:
//
//	d, err := static.New(verify, static.Options{Records: records})
//	…
//	err = d.Replace(records)
//
// Replace tells those who Watch what is different. The directory depends on
// nothing and is therefore unavailable only when a caller's context ends, or when passwords arrive faster than they can be hashed.
package static

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"switchyard/lookup"
)

// Record is an account and the hash of its password.
type Record struct {
	Account lookup.Account // Account.Name may be in any case

	// Hash is what Verify compares a password with. Nobody can log in to an
	// account without one.
	Hash string
}

// Verify reports whether a password belongs to a hash. It is called by many
// goroutines, never with an empty hash or password.
type Verify func(hash, password string) bool

// Options of a Directory.
type Options struct {
	// Records are the accounts to begin with. Nil means none until Replace.
	Records []Record

	// Hashers bounds how many passwords are verified at the same time; others
	// wait until their context ends. Zero means one for each processor.
	Hashers int
}

// Directory implements lookup.Directory. It is safe for concurrent use.
type Directory struct {
	verify  Verify
	hashers chan struct{}
	content atomic.Pointer[content]

	mu       sync.Mutex // held while the content is replaced and told of
	watchers map[*watcher]bool
}

// content is one state of the directory, never changed once it is shown.
type content struct {
	records map[string]Record

	// decoy is a hash that is verified when the account or its hash is
	// missing, so that the time of an answer does not tell who exists.
	decoy string
}

// New returns a directory of opts.Records.
func New(verify Verify, opts Options) (*Directory, error) {
	if opts.Hashers <= 0 {
		opts.Hashers = runtime.GOMAXPROCS(0)
	}
	d := &Directory{verify: verify, hashers: make(chan struct{}, opts.Hashers), watchers: make(map[*watcher]bool)}
	if err := d.Replace(opts.Records); err != nil {
		return nil, err
	}
	return d, nil
}

// Replace puts records in the place of all that were there, at once: a
// question sees either the old or the new. A name that no account can have, or
// two records of one name, is an error, and the old records stay. It returns
// when all who watch have been told. The
// directory keeps the records' maps and slices: do not write to them after.
func (d *Directory) Replace(records []Record) error {
	next := &content{records: make(map[string]Record, len(records))}
	for i, r := range records {
		name, err := lookup.CleanName(r.Account.Name, "")
		if err != nil {
			return fmt.Errorf("record %d: account %.80q: %w", i+1, r.Account.Name, err)
		}
		if _, twice := next.records[name]; twice {
			return fmt.Errorf("record %d: account %s is there twice", i+1, name)
		}
		r.Account.Name = name
		next.records[name] = r
		if next.decoy == "" {
			next.decoy = r.Hash
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.content.Swap(next)
	if old != nil && len(d.watchers) > 0 {
		d.tell(old, next)
	}
	return nil
}

// Len returns the number of accounts.
func (d *Directory) Len() int { return len(d.content.Load().records) }

// Lookup implements lookup.Directory.
func (d *Directory) Lookup(ctx context.Context, name string) (lookup.Account, error) {
	if err := ctx.Err(); err != nil {
		return lookup.Account{}, lookup.Unavailable("static lookup", err)
	}
	r, found := d.content.Load().records[name]
	if !found {
		return lookup.Account{}, lookup.ErrAbsent
	}
	return r.Account, nil
}

// Check implements lookup.Directory.
func (d *Directory) Check(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	if c.Password == "" {
		return lookup.Account{}, lookup.ErrRejected
	}
	select {
	case d.hashers <- struct{}{}:
		defer func() { <-d.hashers }()
	case <-ctx.Done():
		return lookup.Account{}, lookup.Unavailable("wait for a hasher", ctx.Err())
	}
	if err := ctx.Err(); err != nil {
		return lookup.Account{}, lookup.Unavailable("static check", err)
	}
	now := d.content.Load()
	r, found := now.records[c.Name]
	if !found || r.Hash == "" {
		if now.decoy != "" {
			d.verify(now.decoy, c.Password)
		}
		return lookup.Account{}, lookup.ErrRejected
	}
	if !d.verify(r.Hash, c.Password) {
		return lookup.Account{}, lookup.ErrRejected
	}
	return r.Account, nil
}
