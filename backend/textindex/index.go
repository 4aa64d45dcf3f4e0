package textindex

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"switchyard/backend"
)

// Options for Open. The zero value works.
type Options struct {
	FS     vfs.FS // nil: the system's
	Cache  int64  // bytes of blocks kept in memory; zero: 32 MiB
	Logger *zap.Logger
}

// Index is the text index of a node. It is safe for concurrent use.
type Index struct {
	db  *pebble.DB
	log *zap.Logger

	mu       sync.Mutex
	accounts map[string]*account // those in use, and some that were
	idle     []*account          // not in use, the longest first
}

// keptAccounts is how many accounts' directories of messages stay in memory
// when nobody searches.
const keptAccounts = 64

// version is in every key: what another version wrote is removed by Open.
const version = 1

// Open opens the index in a directory, or makes it. An index that cannot be
// read is thrown away and made again: it is a cache.
func Open(dir string, o Options) (*Index, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Cache == 0 {
		o.Cache = 32 << 20
	}
	x, err := open(dir, o)
	if err == nil {
		return x, nil
	}
	o.Logger.Warn("text index cannot be opened, it is made again", zap.Error(err))
	if err := o.FS.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("remove the text index: %w", err)
	}
	return open(dir, o)
}

func open(dir string, o Options) (*Index, error) {
	cache := pebble.NewCache(o.Cache)
	defer cache.Unref()
	options := &pebble.Options{
		FS: o.FS, Cache: cache, DisableWAL: true, MemTableSize: 8 << 20,
		FormatMajorVersion: pebble.FormatNewest, Logger: quiet{},
	}
	db, err := pebble.Open(dir, options)
	if err != nil {
		return nil, err
	}
	x := &Index{db: db, log: o.Logger, accounts: make(map[string]*account)}
	// What is not this version's is before or behind it.
	err = errors.Join(
		db.DeleteRange([]byte{0}, []byte{version}, pebble.NoSync),
		db.DeleteRange([]byte{version + 1}, []byte{0xff}, pebble.NoSync))
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return x, nil
}

// quiet keeps Pebble's own words out of the log.
type quiet struct{}

func (quiet) Infof(string, ...any)           {}
func (quiet) Errorf(string, ...any)          {}
func (quiet) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

// Close writes what is in memory and closes the index.
func (x *Index) Close() error { return errors.Join(x.db.Flush(), x.db.Close()) }

// The kinds of a block's two rows.
const (
	rowHead  = 'h'
	rowWords = 'w'
)

func keyAccount(name string, kind byte) []byte {
	k := append([]byte{version, kind}, name...)
	return append(k, 0)
}

func keyBlock(name string, kind byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64(keyAccount(name, kind), id)
}

// account is an account's part of the index. There is one at a time for each.
type account struct {
	name   string
	users  int           // searches under way; guarded by Index.mu
	adding chan struct{} // holds a value while blocks are made

	mu     sync.RWMutex // held to change what follows
	loaded bool
	heads  map[uint64]head
	at     map[backend.GUID]spot
	next   uint64 // number of the next block
}

// head is a block without its words.
type head struct {
	guids []backend.GUID
	over  []uint32
}

// spot is where a message is.
type spot struct {
	block  uint64
	number uint32
}

// use returns the account's part, loaded, until it is released.
func (x *Index) use(name string) (*account, error) {
	x.mu.Lock()
	a := x.accounts[name]
	if a == nil {
		a = &account{name: name, adding: make(chan struct{}, 1)}
		x.accounts[name] = a
	}
	if a.users++; a.users == 1 {
		x.idle = slices.DeleteFunc(x.idle, func(other *account) bool { return other == a })
	}
	x.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.loaded {
		return a, nil
	}
	err := a.load(x.db)
	if err != nil {
		x.release(a)
	}
	return a, err
}

func (x *Index) release(a *account) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if a.users--; a.users > 0 {
		return
	}
	if x.idle = append(x.idle, a); len(x.idle) > keptAccounts {
		delete(x.accounts, x.idle[0].name)
		x.idle = x.idle[1:]
	}
}

// load reads the heads of the account's blocks. The caller holds mu.
func (a *account) load(db *pebble.DB) (err error) {
	a.heads, a.at, a.next = make(map[uint64]head), make(map[backend.GUID]spot), 0
	prefix := keyAccount(a.name, rowHead)
	end := bytes.Clone(prefix)
	end[len(end)-1]++
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: end})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		key := it.Key()
		if len(key) != len(prefix)+8 {
			return errDamaged
		}
		guids, over, err := readHead(it.Value())
		if err != nil {
			return err
		}
		a.take(binary.BigEndian.Uint64(key[len(prefix):]), head{guids, over})
	}
	a.loaded = it.Error() == nil
	return it.Error()
}

// take notes a block. The caller holds mu.
func (a *account) take(id uint64, h head) {
	a.heads[id] = h
	for i, guid := range h.guids {
		a.at[guid] = spot{id, uint32(i)}
	}
	a.next = max(a.next, id+1)
}

// block reads a block whole.
func (x *Index) block(a *account, id uint64, h head) (*block, error) {
	value, closer, err := x.db.Get(keyBlock(a.name, rowWords, id))
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	return readBlock(h.guids, h.over, bytes.Clone(value))
}

// write puts a block in the place of others.
func (x *Index) write(ctx context.Context, a *account, b *builder, instead []uint64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	batch := x.db.NewBatch()
	defer batch.Close()
	for _, id := range instead {
		_ = batch.Delete(keyBlock(a.name, rowHead, id), nil)
		_ = batch.Delete(keyBlock(a.name, rowWords, id), nil)
	}
	id := a.next
	if len(b.guids) > 0 {
		_ = batch.Set(keyBlock(a.name, rowHead, id), b.head(), nil)
		_ = batch.Set(keyBlock(a.name, rowWords, id), b.encode(), nil)
	}
	if err := x.db.Apply(batch, pebble.NoSync); err != nil {
		return err
	}
	for _, old := range instead {
		for i, guid := range a.heads[old].guids {
			if a.at[guid] == (spot{old, uint32(i)}) {
				delete(a.at, guid)
			}
		}
		delete(a.heads, old)
	}
	if len(b.guids) > 0 {
		a.take(id, head{b.guids, b.over})
	}
	return nil
}

// Forget drops all that is known of an account.
func (x *Index) Forget(name string) error {
	a, err := x.use(name)
	if err == nil {
		defer x.release(a)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.loaded = false // also when what follows fails
	}
	var errs []error
	for _, kind := range []byte{rowHead, rowWords} {
		from := keyAccount(name, kind)
		to := bytes.Clone(from)
		to[len(to)-1]++
		errs = append(errs, x.db.DeleteRange(from, to, pebble.NoSync))
	}
	return errors.Join(errs...)
}
