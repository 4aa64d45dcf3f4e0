package nwauth

import (
	"bufio"
	"context"
	"io"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
)

// importBatch is how many records of an import share a sync at most; maxBatch
// bounds their bytes.
const importBatch = 2000

// Imported says what an import did.
type Imported struct {
	Added    int
	Replaced int

	// Bad counts the lines that were left out; Errors has a LineError for
	// each of the first 20.
	Bad    int
	Errors []error
}

// Import reads NWAuth records, one a line, and puts each in the place of the
// record of that name, password hash and labels and all; users that the file
// does not name stay. A line that is no record, or the second one of its name,
// is left out and reported. A record that moves an account gets a higher
// generation than the one that was there, unless it brings a higher one
// itself.
//
// The error is that of r, or lookup.ErrUnavailable; then what the result
// counts is done, and the import can be repeated.
func (db *DB) Import(ctx context.Context, r io.Reader) (Imported, error) {
	in := &importer{db: db, ctx: ctx, seen: make(map[string]int)}
	err := eachLine(r, in.line)
	if err == nil {
		err = in.flush()
	}
	in.result.Bad, in.result.Errors = in.bad.total, in.bad.errs
	return in.result, err
}

type importer struct {
	db      *DB
	ctx     context.Context
	seen    map[string]int // name to line
	changes []*change
	bytes   int // of the lines behind changes
	bad     badLines
	result  Imported
}

func (in *importer) line(number int, text string) error {
	r, err := ParseRecord(text)
	if err != nil {
		in.bad.add(number, err)
		return nil
	}
	if at := in.seen[r.Name]; at > 0 {
		in.bad.add(number, netwin.Refuse("%s is there twice, first in line %d", r.Name, at))
		return nil
	}
	in.seen[r.Name] = number
	in.changes = append(in.changes, &change{name: r.Name, next: func(old state) (state, error) { return old.replace(r) }})
	if in.bytes += len(text); len(in.changes) < importBatch && in.bytes < maxBatch {
		return nil
	}
	return in.flush()
}

func (in *importer) flush() error {
	if len(in.changes) == 0 {
		return nil
	}
	if err := in.db.commitAll(in.ctx, in.changes); err != nil {
		return err
	}
	for _, ch := range in.changes {
		switch {
		case ch.err != nil:
			in.bad.add(in.seen[ch.name], ch.err)
		case ch.added:
			in.result.Added++
		default:
			in.result.Replaced++
		}
	}
	in.changes, in.bytes = nil, 0
	return nil
}

// Export writes every record as a line, in the order of their names, in the
// form that Import reads. Changes made meanwhile may or may not be in it.
func (db *DB) Export(ctx context.Context, w io.Writer) error {
	bw := bufio.NewWriterSize(w, 64<<10)
	var text []byte
	for _, name := range db.table.names(false) {
		if err := ctx.Err(); err != nil {
			return lookup.Unavailable("export the user database", err)
		}
		text = db.table.appendLine(text[:0], name)
		if len(text) > 0 && text[0] == ':' {
			continue // deleted meanwhile
		}
		if _, err := bw.Write(text); err != nil {
			return err
		}
	}
	return bw.Flush()
}
