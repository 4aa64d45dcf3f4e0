package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"switchyard/lookup"
	"switchyard/lookup/internal/hashers"
	"switchyard/lookup/internal/netwin"
)

// RefusedError says that a change or a record can never be accepted, and why.
type RefusedError = netwin.RefusedError

// Options for Open. The zero value works.
type Options struct {
	// Password for the database; empty means that of the connection string,
	// or what the server allows without one.
	Password string

	// Connections bounds the connections to the database, the ones of Watch
	// not counted. Zero means pool_max_conns of the connection string, or 8.
	Connections int

	// Timeout is how long a question or a change may take altogether, the
	// wait for a connection and repetitions included. A search, and each
	// piece of an import, gets ten times as long. Zero means 5 seconds.
	Timeout time.Duration

	// Hashers bounds how many passwords are hashed at the same time. Zero
	// means one for each processor.
	Hashers int

	// HashWait is how long a login waits for its turn to be hashed before it
	// is answered with ErrUnavailable. Zero means 2 seconds.
	HashWait time.Duration

	// Poll is how often Watch looks at the log of changes although nothing
	// was announced. Zero means 2 seconds.
	Poll time.Duration

	Logger *zap.Logger // nil: none
}

func (o Options) withDefaults() Options {
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Poll == 0 {
		o.Poll = 2 * time.Second
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

const (
	// defaultConnections is what the pool has unless told otherwise.
	defaultConnections = 8

	// maxIdle is how long a connection that is not needed is kept.
	maxIdle = 5 * time.Minute

	// statementGrace is how much longer than the server we wait for the end
	// of a statement: a statement that the server ends itself does not cost
	// the connection.
	statementGrace = 250 * time.Millisecond
)

// DB is an open database. It is safe for concurrent use.
type DB struct {
	opts      Options
	pool      *pgxpool.Pool
	passwords Passwords
	hashers   *hashers.Pool
	decoys    *decoys
	schema    schema

	upgrades chan upgrade
	closing  chan struct{} // closed by Close
	once     sync.Once
	wg       sync.WaitGroup
}

// Open connects to a database, as a PostgreSQL connection string or URL says,
// and brings its schema up to date if need be, for which the role must be
// allowed to create schemas; any number of processes may do so at the same
// time. It blocks until ctx ends or Timeout has passed; a migration that
// another process works at gets ten times as long.
//
// A database that is away is no error: questions are unavailable, Ready says
// why, and what Open would have done is done once it is there. An error is a
// connection string that says nothing, and a database that can never be used:
// of a newer release, or of another encoding. Errors show no password.
func Open(ctx context.Context, dsn string, passwords Passwords, opts Options) (*DB, error) {
	opts = opts.withDefaults()
	config, err := poolConfig(dsn, opts)
	if err != nil {
		return nil, err
	}
	db := &DB{
		opts:      opts,
		passwords: passwords,
		hashers:   hashers.New(opts.Hashers, opts.HashWait),
		decoys:    newDecoys(),
		upgrades:  make(chan upgrade, upgradeQueue),
		closing:   make(chan struct{}),
	}
	db.pool, err = pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	db.schema.init()
	switch err := db.prepare(ctx); {
	case errors.Is(err, lookup.ErrUnavailable):
		db.opts.Logger.Warn("database is away, it is asked again with the first question", zap.Error(err))
	case err != nil:
		db.pool.Close()
		return nil, fmt.Errorf("postgres: %w", err)
	}
	db.wg.Go(db.upgradeLoop)
	return db, nil
}

// poolConfig reads a connection string and adds what we insist on.
func poolConfig(dsn string, opts Options) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err) // pgx leaves the password out
	}
	switch {
	case opts.Connections > 0:
		config.MaxConns = int32(min(opts.Connections, 10_000))
	case !strings.Contains(dsn, "pool_max_conns"):
		config.MaxConns = defaultConnections
	}
	config.MaxConnIdleTime = maxIdle
	config.PrepareConn = nil
	config.AfterConnect = insist
	cc := config.ConnConfig
	if opts.Password != "" {
		cc.Password = opts.Password
	}
	if cc.ConnectTimeout == 0 || cc.ConnectTimeout > opts.Timeout {
		cc.ConnectTimeout = opts.Timeout
	}
	if cc.ValidateConnect == nil {
		cc.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	for name, value := range map[string]string{
		"client_encoding":   "UTF8",
		"search_path":       "pg_catalog",
		"row_security":      "off", // an error rather than rows that are hidden
		"statement_timeout": milliseconds(opts.Timeout),
		"lock_timeout":      milliseconds(opts.Timeout),
		// A daemon that was stopped inside a transaction holds no lock for
		// longer than this.
		"idle_in_transaction_session_timeout": milliseconds(10 * opts.Timeout),
	} {
		cc.RuntimeParams[name] = value
	}
	if cc.RuntimeParams["application_name"] == "" {
		cc.RuntimeParams["application_name"] = "switchyard"
	}
	return config, nil
}

func milliseconds(d time.Duration) string {
	return strconv.FormatInt(max(1, d.Milliseconds()), 10)
}

// insist makes a new connection keep the promise that acknowledged means on
// disk. Other values than off are stronger, or the site's own decision between
// here and elsewhere.
func insist(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`)
	return err
}

// begin does what comes before the first question.
func (db *DB) begin(ctx context.Context) error {
	if err := db.migrate(ctx); err != nil {
		return err
	}
	return db.read(ctx, "prepare for logins", func(ctx context.Context) error {
		var fsync string
		if err := db.pool.QueryRow(ctx, `SELECT current_setting('fsync')`).Scan(&fsync); err != nil {
			return err
		}
		if fsync == "off" {
			db.opts.Logger.Warn("the database runs with fsync off: it can lose what was acknowledged")
		}
		hashes, err := collect[string](ctx, db, `SELECT hash FROM switchyard.users WHERE live LIMIT $1`, decoyCount)
		for _, hash := range hashes {
			db.decoys.offer(hash)
		}
		return err
	})
}

// Close waits for the questions under way and closes the connections. End
// every Watch before.
func (db *DB) Close() error {
	db.once.Do(func() { close(db.closing) })
	db.wg.Wait()
	db.pool.Close()
	return nil
}

// Ready returns why the database cannot be used now, nil while all is well.
func (db *DB) Ready(ctx context.Context) error {
	return db.read(ctx, "ask the user database", func(ctx context.Context) error {
		var seq int64
		return db.pool.QueryRow(ctx, `SELECT seq FROM switchyard.feed`).Scan(&seq)
	})
}

// Lookup implements lookup.Directory.
func (db *DB) Lookup(ctx context.Context, name string) (lookup.Account, error) {
	r, err := db.find(ctx, "look up in the user database", name)
	if err != nil {
		return lookup.Account{}, err
	}
	return accountOf(r)
}

// find reads a record. A name that no account can have is absent without a
// question. Errors: lookup.ErrAbsent, lookup.ErrUnavailable.
func (db *DB) find(ctx context.Context, step, name string) (Record, error) {
	if netwin.CheckName(name) != nil {
		return Record{}, lookup.ErrAbsent
	}
	r := Record{Name: name}
	err := db.read(ctx, step, func(ctx context.Context) error {
		r.Labels = nil
		err := db.pool.QueryRow(ctx, `SELECT hash, labels FROM switchyard.users WHERE name = $1 AND live`, name).Scan(&r.Hash, &r.Labels)
		if errors.Is(err, pgx.ErrNoRows) {
			return lookup.ErrAbsent
		}
		return err
	})
	if err != nil {
		return Record{}, err
	}
	return r, nil
}

// Check implements lookup.Directory. A name that nobody has costs as much
// time as one that somebody has: see decoys.
func (db *DB) Check(ctx context.Context, c lookup.Credentials) (lookup.Account, error) {
	if checkPassword(c.Password) != nil {
		return lookup.Account{}, lookup.ErrRejected
	}
	r, err := db.find(ctx, "check in the user database", c.Name)
	found := err == nil
	if !found && lookup.AnswerOf(err) != lookup.AnswerAbsent {
		return lookup.Account{}, err
	}
	usable := found && !locked(r.Hash)
	hash := r.Hash
	if !usable {
		if hash, err = db.decoys.forName(c.Name, db.passwords.Hash); err != nil {
			return lookup.Account{}, lookup.Unavailable("make a hash", err)
		}
	}
	var right bool
	var broken error
	if err := db.hashers.Do(ctx, func() { right, broken = db.passwords.Verify(hash, c.Password) }); err != nil {
		return lookup.Account{}, err
	}
	switch {
	case !usable:
		return lookup.Account{}, lookup.ErrRejected
	case broken != nil:
		db.opts.Logger.Warn("password hash cannot be verified", zap.String("user", r.Name), zap.Error(broken))
		return lookup.Account{}, lookup.Unavailable("verify the password of "+r.Name, broken)
	}
	db.decoys.offer(r.Hash)
	if !right {
		return lookup.Account{}, lookup.ErrRejected
	}
	db.offerUpgrade(r, c.Password)
	return accountOf(r)
}

func accountOf(r Record) (lookup.Account, error) {
	account, err := netwin.Account(r.Name, r.Labels)
	if err != nil {
		return lookup.Account{}, lookup.Unavailable("read the record of "+r.Name, err)
	}
	return account, nil
}

// Count returns how many accounts there are.
func (db *DB) Count(ctx context.Context) (int, error) {
	_, found, _, err := db.Search(ctx, "*", 0, 1)
	return found, err
}
