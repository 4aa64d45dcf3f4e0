package postgres

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"switchyard/lookup"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second

	// maxChanges bounds how many changes are read at once.
	maxChanges = 1000
)

// Watch implements lookup.Watcher, on a connection of its own. What is told of
// comes from the log of changes; PostgreSQL's notifications only say when to
// look. So what happened while the connection was broken is told of change by
// change afterwards. Only when the log does not reach back far enough, or the
// database has gone back in time, is one change told of with an empty Name.
//
// It never returns an error.
func (db *DB) Watch(ctx context.Context, changed func(lookup.Change)) error {
	return db.Feed(ctx, func() {}, changed)
}

// Feed is Watch, and calls live, once, when no later change can be missed any
// more: its place in the log is known.
func (db *DB) Feed(ctx context.Context, live func(), changed func(lookup.Change)) error {
	w := &watch{db: db, live: sync.OnceFunc(live), changed: changed}
	backoff := minBackoff
	for {
		err := w.follow(ctx, func() { backoff = minBackoff })
		if ctx.Err() != nil {
			return nil
		}
		if !w.placed {
			// Where the log was when Watch was called is not known any more.
			w.late = true
		}
		if backoff == minBackoff {
			db.opts.Logger.Warn("feed of changes is interrupted", zap.Error(err))
		}
		timer := time.NewTimer(backoff/2 + rand.N(backoff/2+1))
		backoff = min(2*backoff, maxBackoff)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// watch is one call of Watch.
type watch struct {
	db      *DB
	live    func()
	changed func(lookup.Change)
	placed  bool // seq and id are set
	late    bool // changes before seq may have been missed
	seq     int64
	id      string // of the newest change that was told of
}

// follow tells of changes until something breaks. It calls whole once the feed
// is up.
func (w *watch) follow(ctx context.Context, whole func()) error {
	conn, err := w.connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementGrace)
		defer cancel()
		conn.Close(ctx)
	}()
	for {
		if err := w.catchUp(ctx, conn); err != nil {
			return err
		}
		whole()
		if err := w.wait(ctx, conn); err != nil {
			return err
		}
	}
}

func (w *watch) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, w.db.opts.Timeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, w.db.pool.Config().ConnConfig)
	if err != nil {
		return nil, err
	}
	// Before the log is read: a change that is committed in between is then
	// announced.
	if _, err := conn.Exec(ctx, `LISTEN switchyard`); err != nil {
		conn.Close(ctx)
		return nil, err
	}
	return conn, nil
}

// wait returns when something was announced, or it is time to look anyway.
func (w *watch) wait(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, w.db.opts.Poll)
	defer cancel()
	_, err := conn.WaitForNotification(ctx)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && !conn.IsClosed() {
		return nil
	}
	return err
}

// entry is a row of the log.
type entry struct {
	Seq      int64
	ID       string
	Name     string
	Sessions bool
}

// catchUp tells of all that is new in the log.
func (w *watch) catchUp(ctx context.Context, conn *pgx.Conn) error {
	for {
		entries, err := w.readLog(ctx, conn)
		if err != nil {
			return err
		}
		for i, e := range entries {
			if i == 0 {
				continue // known already
			}
			w.changed(lookup.Change{Name: e.Name, Sessions: e.Sessions})
			w.seq, w.id = e.Seq, e.ID
		}
		if len(entries) <= maxChanges {
			return nil
		}
	}
}

// readLog returns the newest entry that was told of and those that follow,
// or begins anew at the end of the log.
func (w *watch) readLog(ctx context.Context, conn *pgx.Conn) ([]entry, error) {
	ctx, cancel := context.WithTimeout(ctx, w.db.opts.Timeout)
	defer cancel()
	const columns = `SELECT seq, id::text, name, sessions FROM switchyard.changes `
	if w.placed {
		rows, err := conn.Query(ctx, columns+`WHERE seq >= $1 ORDER BY seq LIMIT $2`, w.seq, maxChanges+1)
		if err != nil {
			return nil, err
		}
		entries, err := pgx.CollectRows(rows, pgx.RowToStructByPos[entry])
		if err != nil {
			return nil, err
		}
		if w.continues(entries) {
			return entries, nil
		}
	}
	rows, err := conn.Query(ctx, columns+`ORDER BY seq DESC LIMIT 1`)
	if err != nil {
		return nil, err
	}
	newest, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[entry])
	if err != nil {
		return nil, err
	}
	missed := w.placed || w.late
	w.seq, w.id, w.placed, w.late = newest.Seq, newest.ID, true, false
	w.live()
	if missed {
		w.db.opts.Logger.Warn("changes were missed: the log of changes does not reach back")
		w.changed(lookup.Change{Sessions: true})
	}
	return nil, nil
}

// continues reports whether entries begin with the one that was told of last
// and have no gap.
func (w *watch) continues(entries []entry) bool {
	for i, e := range entries {
		if e.Seq != w.seq+int64(i) {
			return false
		}
	}
	return len(entries) > 0 && entries[0].ID == w.id
}
