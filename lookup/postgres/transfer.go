package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
)

// The bounds of what an import holds in memory and commits together.
const (
	importBatch = 10_000
	importBytes = 16 << 20
)

// maxReported bounds how many bad records one result names.
const maxReported = 20

// Imported says what an import did so far.
type Imported struct {
	Added    int
	Replaced int

	// Bad counts the records that were left out; Errors says why for each of
	// the first 20.
	Bad    int
	Errors []error
}

// Import puts records in the place of those of their names, password hash and
// labels and all; users that it does not name stay. next returns one record
// after the other, io.EOF behind the last one, and a RefusedError for one that
// cannot be read. A record that cannot be kept, or the second one of its name,
// is left out and reported. A record that moves an account gets a higher
// generation than the one that was there, unless it brings a higher one
// itself.
//
// progress, unless it is nil, is called after each 10,000 records, which
// become visible together. Import uses COPY, and holds the names in memory.
//
// Errors: those of next, lookup.ErrUnavailable; then what the result counts is
// done, and the import can be repeated.
func (db *DB) Import(ctx context.Context, next func() (Record, error), progress func(Imported)) (Imported, error) {
	in := &importer{db: db, seen: make(map[string]struct{}), progress: progress}
	for {
		r, err := next()
		var refused *RefusedError
		switch {
		case err == io.EOF:
			return in.result, in.flush(ctx)
		case errors.As(err, &refused):
			in.bad(err)
			continue
		case err != nil:
			return in.result, err
		}
		if err := in.add(ctx, r); err != nil {
			return in.result, err
		}
	}
}

type importer struct {
	db       *DB
	seen     map[string]struct{}
	batch    []Record
	bytes    int
	result   Imported
	progress func(Imported)
}

func (in *importer) bad(err error) {
	if in.result.Bad++; len(in.result.Errors) < maxReported {
		in.result.Errors = append(in.result.Errors, err)
	}
}

func (in *importer) add(ctx context.Context, r Record) error {
	if err := r.check(); err != nil {
		in.bad(fmt.Errorf("%.80q: %w", r.Name, err))
		return nil
	}
	if _, twice := in.seen[r.Name]; twice {
		in.bad(netwin.Refuse("%s is there twice", r.Name))
		return nil
	}
	in.seen[r.Name] = struct{}{}
	in.batch = append(in.batch, r)
	in.bytes += len(r.Name) + len(r.Hash)
	for label, value := range r.Labels {
		in.bytes += len(label) + len(value)
	}
	if len(in.batch) < importBatch && in.bytes < importBytes {
		return nil
	}
	return in.flush(ctx)
}

// flush commits what is there.
func (in *importer) flush(ctx context.Context) error {
	if len(in.batch) == 0 {
		return nil
	}
	// Everybody who changes many at a time takes them in the same order.
	slices.SortFunc(in.batch, func(a, b Record) int { return strings.Compare(a.Name, b.Name) })
	var p pieces
	err := in.db.write(ctx, "import into the user database", long, func(ctx context.Context, tx pgx.Tx) error {
		var err error
		if p, err = in.place(ctx, tx); err != nil {
			return err
		}
		return p.write(ctx, tx)
	})
	if err != nil {
		return err
	}
	for _, err := range p.refused {
		in.bad(err)
	}
	in.result.Added += p.added
	in.result.Replaced += p.replaced
	in.batch, in.bytes = in.batch[:0], 0
	if in.progress != nil {
		in.progress(in.result)
	}
	return nil
}

// pieces is a batch, divided by how it is written.
type pieces struct {
	fresh           []state // no row yet
	known           []state
	added, replaced int
	refused         []error
}

// place finds out what is there, and what a batch makes of it.
func (in *importer) place(ctx context.Context, tx pgx.Tx) (pieces, error) {
	names := make([]string, len(in.batch))
	for i, r := range in.batch {
		names[i] = r.Name
	}
	there := make(map[string]state)
	rows, err := tx.Query(ctx, selectState+` WHERE name = ANY ($1) ORDER BY name FOR UPDATE`, names)
	if err != nil {
		return pieces{}, err
	}
	var old state
	_, err = pgx.ForEachRow(rows, old.fields(), func() error {
		// An import may mend what is broken: its generation counts as far as
		// the row has one.
		old.settle()
		there[old.record.Name] = old
		old.record.Labels = nil
		return nil
	})
	if err != nil {
		return pieces{}, err
	}
	var p pieces
	for _, r := range in.batch {
		old, known := there[r.Name]
		next, err := old.replace(r)
		switch {
		case err != nil:
			p.refused = append(p.refused, fmt.Errorf("%s: %w", r.Name, err))
			continue
		case known:
			p.known = append(p.known, next)
		default:
			p.fresh = append(p.fresh, next)
		}
		if old.live {
			p.replaced++
		} else {
			p.added++
		}
	}
	return p, nil
}

// write writes a batch. Its last statements are those whose triggers lock the
// feed.
func (p pieces) write(ctx context.Context, tx pgx.Tx) error {
	columns := []string{"name", "hash", "labels", "generation"}
	if len(p.known) > 0 {
		_, err := tx.Exec(ctx, `CREATE TEMPORARY TABLE incoming (
			name text COLLATE "C", hash text, labels jsonb, generation numeric(20, 0)) ON COMMIT DROP`)
		if err != nil {
			return err
		}
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{"pg_temp", "incoming"}, columns, source(p.known)); err != nil {
			return err
		}
	}
	if len(p.fresh) > 0 {
		_, err := tx.CopyFrom(ctx, pgx.Identifier{"switchyard", "users"}, columns, source(p.fresh))
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "23505" { // unique_violation
			return errStale
		}
		if err != nil {
			return err
		}
	}
	if len(p.known) > 0 {
		_, err := tx.Exec(ctx, `UPDATE switchyard.users u
			SET hash = i.hash, labels = i.labels, live = true, generation = i.generation, updated = now()
			FROM pg_temp.incoming i WHERE u.name = i.name`)
		return err
	}
	return nil
}

func source(states []state) pgx.CopyFromSource {
	return pgx.CopyFromSlice(len(states), func(i int) ([]any, error) {
		r := states[i].record
		labels := r.Labels
		if labels == nil {
			labels = map[string]string{}
		}
		return []any{r.Name, r.Hash, labels, text(states[i].generation)}, nil
	})
}

// Export calls each with every record, in the order of their names, all as
// they are at one moment. It stops at the first error of each and returns it.
// The record is the callee's. Errors: lookup.ErrUnavailable, also when it
// takes more than 100 times Timeout.
func (db *DB) Export(ctx context.Context, each func(Record) error) error {
	const step = "export the user database"
	ctx, cancel := context.WithTimeout(ctx, long*long*db.opts.Timeout)
	defer cancel()
	var stopped error
	err := db.transact(ctx, long*long, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT name, hash, labels FROM switchyard.users WHERE live ORDER BY name`)
		if err != nil {
			return err
		}
		var r Record
		_, err = pgx.ForEachRow(rows, []any{&r.Name, &r.Hash, &r.Labels}, func() error {
			stopped = each(r)
			r.Labels = nil // the next row's would be added to them
			return stopped
		})
		return err
	})
	switch {
	case stopped != nil:
		return stopped
	case err != nil:
		return lookup.Unavailable(step, err)
	}
	return nil
}
