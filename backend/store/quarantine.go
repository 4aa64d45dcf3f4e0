package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/store/rows"
)

// Quarantined is an account that is shut off since a record of the log did not
// fit its state. Every call for it is backend.ErrBusy. The log keeps its
// records, and each start tries them again.
type Quarantined struct {
	Account string // "": the node's queue
	Shard   uint8
	Seq     uint64 // of the first record that is not in the state
	Reason  string
}

// quarantine knows the accounts that are shut off. It changes at start only.
type quarantine struct {
	mu       sync.RWMutex
	accounts map[string]rows.Quarantine
}

func (q *quarantine) load(dbs []*pebble.DB) error {
	q.accounts = make(map[string]rows.Quarantine)
	for _, db := range dbs {
		err := rows.Scan(db, []byte{rows.SpaceQuarantine}, func(key, value []byte) error {
			var row rows.Quarantine
			err := row.Read(value)
			q.accounts[string(key[1:])] = row
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

var errQuarantined = errors.New("account is shut off: its log does not fit its state")

// of returns an error when the account is shut off.
func (q *quarantine) of(account string) error {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if row, ok := q.accounts[account]; ok {
		return fmt.Errorf("%w: %w: %s", backend.ErrBusy, errQuarantined, row.Reason)
	}
	return nil
}

func (q *quarantine) set(account string, row rows.Quarantine) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.accounts[account] = row
}

func (q *quarantine) clear(account string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.accounts, account)
}

// hold returns the oldest record of a shard that an account still needs; zero
// when there is none.
func (q *quarantine) hold(shard uint8) (seq uint64) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	for account, row := range q.accounts {
		if shardOfUser(account) == shard && (seq == 0 || row.Seq < seq) {
			seq = row.Seq
		}
	}
	return seq
}

// Quarantined lists the accounts that are shut off, by name.
func (s *Store) Quarantined() []Quarantined {
	s.quarantine.mu.RLock()
	defer s.quarantine.mu.RUnlock()
	var list []Quarantined
	for account, row := range s.quarantine.accounts {
		list = append(list, Quarantined{account, shardOfUser(account), row.Seq, row.Reason})
	}
	slices.SortFunc(list, func(a, b Quarantined) int { return strings.Compare(a.Account, b.Account) })
	return list
}

// shut shuts an account off from a record on. The caller writes the row.
func (s *Store) shut(record *effect.Record, misfit error) rows.Quarantine {
	row := rows.Quarantine{Seq: record.Seq, Reason: misfit.Error()}
	s.quarantine.set(record.User, row)
	s.log.Error("an account is shut off: a record of the log does not fit its state",
		zap.String("user", record.User), zap.Uint8("shard", record.Shard), zap.Uint64("seq", record.Seq), zap.Error(misfit))
	return row
}

// retry applies what the log has for the shard's accounts that are shut off. An
// account that has all of it is let in again.
func (s *Store) retry(shard uint8) error {
	for _, q := range s.Quarantined() {
		if q.Shard != shard {
			continue
		}
		err := s.retryAccount(q)
		var misfit *misfitError
		switch {
		case errors.As(err, &misfit):
			s.log.Error("an account stays shut off", zap.String("user", q.Account), zap.Uint8("shard", shard), zap.Error(err))
		case err != nil:
			return err
		default:
			s.quarantine.clear(q.Account)
			s.log.Warn("an account is let in again: the log fits its state now", zap.String("user", q.Account), zap.Uint8("shard", shard))
		}
	}
	return nil
}

func (s *Store) retryAccount(q Quarantined) error {
	db, sh := s.dbOf(q.Shard), &s.shards[q.Shard]
	err := rows.ScanRange(db, rows.KeyLog(q.Shard, q.Seq), rows.KeyLog(q.Shard, sh.last+1), func(_, value []byte) error {
		record, err := effect.DecodeRecord(value)
		if err != nil || record.User != q.Account {
			return err
		}
		return s.applyAgain(record, func(t *tx, r *effect.Record) {
			row := rows.Quarantine{Seq: r.Seq + 1, Reason: q.Reason}
			t.put(rows.KeyQuarantine(q.Account), row.Append(nil))
			s.quarantine.set(q.Account, row)
		})
	})
	if err != nil {
		return err
	}
	return db.Delete(rows.KeyQuarantine(q.Account), pebble.NoSync)
}
