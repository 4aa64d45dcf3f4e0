package sieve

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"time"

	"switchyard/backend"
)

// What duplicate has seen, whom vacation has answered and what was sent on are
// properties too, each with the time at which it is forgotten. The oldest go
// when there are too many.
const (
	memoryPrefix = "sieve/memory/"
	maxMemory    = 500
)

// memory is what an account's scripts remember, read when it is first asked.
type memory struct {
	user  backend.User
	now   time.Time
	known map[string]time.Time // until when
	fresh map[string]time.Time // to be remembered
}

func newMemory(u backend.User, now time.Time) *memory { return &memory{user: u, now: now} }

// memoryKey hides what it is about: the names of properties are bounded.
func memoryKey(kind, id string) string {
	sum := sha256.Sum256([]byte(kind + "\x00" + id))
	return memoryPrefix + hex.EncodeToString(sum[:16])
}

func (m *memory) load(ctx context.Context) error {
	if m.known != nil {
		return nil
	}
	all, err := m.user.Properties(ctx, backend.GUID{}, memoryPrefix)
	if err != nil {
		return err
	}
	m.known, m.fresh = make(map[string]time.Time), make(map[string]time.Time)
	for key, value := range all {
		if len(value) == 8 {
			m.known[key] = time.Unix(int64(binary.BigEndian.Uint64(value)), 0)
		}
	}
	return nil
}

// has reports whether something is remembered.
func (m *memory) has(ctx context.Context, key string) (bool, error) {
	if err := m.load(ctx); err != nil {
		return false, err
	}
	_, now := m.fresh[key]
	return now || m.known[key].After(m.now), nil
}

// before is has, but for what was remembered since the delivery began: what a
// script asks twice has one answer (RFC 7352 §3).
func (m *memory) before(ctx context.Context, key string) (bool, error) {
	if err := m.load(ctx); err != nil {
		return false, err
	}
	return m.known[key].After(m.now), nil
}

// remember keeps something from the next save on.
func (m *memory) remember(ctx context.Context, key string, keep time.Duration) error {
	if err := m.load(ctx); err != nil {
		return err
	}
	m.fresh[key] = m.now.Add(keep)
	return nil
}

// save writes what is new, and removes what is over or too much.
func (m *memory) save(ctx context.Context) error {
	if len(m.fresh) == 0 {
		return nil
	}
	change := make(map[string][]byte)
	maps.Copy(m.known, m.fresh)
	keys := slices.SortedFunc(maps.Keys(m.known), func(a, b string) int { return m.known[a].Compare(m.known[b]) })
	for i, key := range keys {
		if len(keys)-i > maxMemory || !m.known[key].After(m.now) {
			change[key] = nil
			delete(m.known, key)
		}
	}
	for key := range m.fresh {
		if until, ok := m.known[key]; ok {
			change[key] = binary.BigEndian.AppendUint64(nil, uint64(until.Unix()))
		}
	}
	clear(m.fresh)
	return m.user.SetProperties(ctx, backend.GUID{}, change)
}
