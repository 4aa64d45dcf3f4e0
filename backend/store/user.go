package store

import (
	"container/list"
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/cockroachdb/pebble/v2"

	"switchyard/backend"
	"switchyard/backend/store/rows"
)

// user is one account in memory: its mailboxes with their counters, but not
// their messages, which a mailbox may have cached. There is at most one for an
// account at any time.
type user struct {
	s       *Store
	db      *pebble.DB
	shard   uint8
	account string

	// once guards the first load; loadErr is its error.
	once    sync.Once
	loadErr error

	// lock is held, by a value in it, for the whole of a change, from
	// validation until it is shown.
	lock chan struct{}

	// waiting changes that the next holder of lock makes together.
	waiting waiting

	mu      sync.RWMutex // guards what follows; writers also hold lock
	exists  bool
	row     rows.Account
	limit   backend.Quota
	boxes   map[backend.GUID]*box
	names   map[string]*box
	subs    map[string]struct{}
	watches map[backend.GUID]map[*backend.Watch]struct{}
}

// box is a mailbox in memory. Guarded by its user's mu.
type box struct {
	rows.Box
	u        *user
	loaded   bool // messages are known
	messages backend.Messages
	cached   *list.Element // in the view cache; guarded by the cache
	watchers atomic.Int32  // how many watches there are; written under the user's mu
}

func newUser(s *Store, account string) *user {
	shard := shardOfUser(account)
	return &user{
		s: s, account: account, shard: shard, db: s.dbOf(shard), lock: make(chan struct{}, 1),
		exists: account == "",
		boxes:  make(map[backend.GUID]*box), names: make(map[string]*box),
		subs: make(map[string]struct{}), watches: make(map[backend.GUID]map[*backend.Watch]struct{}),
	}
}

// load reads the account from the database.
func (u *user) load() error {
	if u.account != "" {
		ok, err := rows.Get(u.db, rows.KeyName(u.account), func(b []byte) error {
			copy(u.row.ID[:], b)
			return nil
		})
		if err != nil || !ok {
			return err
		}
		u.exists = true
	}
	if _, err := rows.Get(u.db, rows.KeyUser(u.row.ID, rows.RowUser), u.row.Read); err != nil {
		return err
	}
	prefix := rows.KeyUser(u.row.ID, rows.RowMailbox)
	err := rows.Scan(u.db, prefix, func(key, value []byte) error {
		id, err := rows.ParseGUID(key)
		if err != nil {
			return err
		}
		b := &box{u: u}
		if err := b.Box.Read(id, value); err != nil {
			return err
		}
		u.boxes[b.ID], u.names[b.Name] = b, b
		return nil
	})
	if err != nil {
		return err
	}
	prefix = rows.KeyUser(u.row.ID, rows.RowSubscription)
	return rows.Scan(u.db, prefix, func(key, _ []byte) error {
		u.subs[string(key[len(prefix):])] = struct{}{}
		return nil
	})
}

// acquire takes the user's lock.
func (u *user) acquire(ctx context.Context) error {
	select {
	case u.lock <- struct{}{}:
		return nil
	default:
	}
	select {
	case u.lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (u *user) unlock() { <-u.lock }

// users finds the one user of an account. Those in use are found by weak
// pointers, so that two sessions share one; the last ones used are kept.
type users struct {
	keep int

	mu     sync.Mutex
	all    map[string]weak.Pointer[user]
	recent *list.List // of *user, most recently used first
	at     map[*user]*list.Element
}

func (us *users) init(keep int) {
	us.keep, us.all = keep, make(map[string]weak.Pointer[user])
	us.recent, us.at = list.New(), make(map[*user]*list.Element)
}

// get returns the user of an account, loaded.
func (us *users) get(account string, create func() *user) (*user, error) {
	us.mu.Lock()
	u := us.all[account].Value()
	if u == nil {
		u = create()
		us.all[account] = weak.Make(u)
		runtime.AddCleanup(u, us.forget, account)
	}
	if el, ok := us.at[u]; ok {
		us.recent.MoveToFront(el)
	} else {
		us.at[u] = us.recent.PushFront(u)
		if us.recent.Len() > us.keep {
			delete(us.at, us.recent.Remove(us.recent.Back()).(*user))
		}
	}
	us.mu.Unlock()
	u.once.Do(func() { u.loadErr = u.load() })
	if u.loadErr != nil {
		us.drop(u)
		return nil, u.loadErr
	}
	return u, nil
}

// drop forgets a user that could not be loaded, so that the next call tries
// again.
func (us *users) drop(u *user) {
	us.mu.Lock()
	defer us.mu.Unlock()
	if us.all[u.account].Value() == u {
		delete(us.all, u.account)
	}
	if el, ok := us.at[u]; ok {
		us.recent.Remove(el)
		delete(us.at, u)
	}
}

// forget removes the entry of a user that the garbage collector took.
func (us *users) forget(account string) {
	us.mu.Lock()
	defer us.mu.Unlock()
	if us.all[account].Value() == nil {
		delete(us.all, account)
	}
}
