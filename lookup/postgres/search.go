package postgres

import (
	"context"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// Search finds names, in order. A pattern with * (any characters) or ? (one
// character) must match the whole name; one without is looked for anywhere in
// it. It returns at most max names (zero: all) beginning with the from-th, how
// many match altogether, and how many users there are, all at one moment. It
// reads every name.
//
// Errors: lookup.ErrUnavailable.
func (db *DB) Search(ctx context.Context, pattern string, from, max int) (names []string, found, total int, err error) {
	like := likePattern(pattern)
	var limit *int // nil: none
	if max > 0 {
		limit = &max
	}
	err = db.readLong(ctx, "search the user database", func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT name FROM switchyard.users
			WHERE live AND name LIKE $1 ORDER BY name OFFSET $2 LIMIT $3`, like, from, limit)
		if err != nil {
			return err
		}
		if names, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT count(*) FILTER (WHERE name LIKE $1), count(*) FROM switchyard.users
			WHERE live`, like).Scan(&found, &total)
	})
	if err != nil {
		return nil, 0, 0, err
	}
	return names, found, total, nil
}

// likePattern translates a pattern for LIKE, with \ to escape.
func likePattern(pattern string) string {
	pattern = strings.ToLower(pattern)
	if !utf8.ValidString(pattern) || strings.IndexByte(pattern, 0) >= 0 {
		return " " // what no name has, and PostgreSQL can read
	}
	if !strings.ContainsAny(pattern, "*?") {
		pattern = "*" + pattern + "*"
	}
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`, `*`, `%`, `?`, `_`).Replace(pattern)
}
