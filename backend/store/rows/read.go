package rows

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/effect/pack"
)

// Get reads one row; ok is false when there is none.
func Get(db *pebble.DB, key []byte, read func([]byte) error) (ok bool, err error) {
	value, closer, err := db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer closer.Close()
	return true, read(value)
}

// Scan reads the rows whose keys begin with prefix, in order. Key and value
// are valid until each returns; it may return ErrStop.
func Scan(db *pebble.DB, prefix []byte, each func(key, value []byte) error) error {
	return ScanRange(db, prefix, After(prefix), each)
}

// ErrStop ends a scan early, without an error.
var ErrStop = errors.New("enough")

// ScanRange is Scan over the keys from one, included, to another, excluded.
func ScanRange(db *pebble.DB, from, to []byte, each func(key, value []byte) error) (err error) {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := each(it.Key(), value); err == ErrStop {
			return nil
		} else if err != nil {
			return err
		}
	}
	return it.Error()
}

// ReadMessage reads a message from its row. Rows of flags may know newer ones.
func ReadMessage(key, value []byte) (backend.Message, error) {
	var r Messages
	return r.Read(key, value)
}

// Messages reads the rows of messages. Equal sets of flags share memory. The
// zero value is ready.
type Messages struct {
	in    pack.Reader
	flags map[string][]string // by their encoding
}

// Read reads one row.
func (r *Messages) Read(key, value []byte) (backend.Message, error) {
	_, uid, err := ParseMessage(key)
	if err != nil {
		return backend.Message{}, err
	}
	r.in.Reset(value)
	m := effect.ReadMessageHead(&r.in)
	m.UID = uid
	if n := r.in.Len(); n > 1 {
		encoded := value[len(value)-n:]
		shared, ok := r.flags[string(encoded)]
		if ok {
			m.Flags = shared
			return m, nil
		}
		m.Flags = r.in.Strings()
		if err := r.in.End(); err != nil {
			return m, err
		}
		if r.flags == nil {
			r.flags = make(map[string][]string)
		}
		r.flags[string(encoded)] = m.Flags
		return m, nil
	}
	m.Flags = r.in.Strings()
	return m, r.in.End()
}
