package nwauth

import (
	"bufio"
	"cmp"
	"context"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
	"switchyard/lookup/nwauth/hash"
)

// Imported says what an import did.
type Imported struct {
	Added    int
	Replaced int

	// Bad counts the lines that were left out; Errors has a LineError for
	// each of the first 20.
	Bad    int
	Errors []error

	// Unverifiable counts the records that were taken over with a password
	// hash that cannot be verified, such as yescrypt: their logins will be
	// answered with "not now". Schemes says which, with one example each.
	Unverifiable int
	Schemes      []string
}

// Progress is told how far an import or an export is: lines, and the bytes of
// the file. It is called now and then, by one goroutine at a time. Nil is fine.
type Progress func(lines, bytes int64)

// progressEvery is how many lines pass between two calls of a Progress.
const progressEvery = 10_000

// Import reads NWAuth records, one a line, and puts each in the place of the
// record of that name, password hash and labels and all; users that the file
// does not name stay. A line that is no record, or the second one of its name,
// is left out and reported. A record that moves an account gets a higher
// generation than the one that was there, unless it brings a higher one
// itself.
//
// Everything that the file has is read into memory, and becomes durable and
// visible at once, in a new base. Changes wait meanwhile. To feeds and replicas
// it is a change of everything.
//
// The error is that of r, RefusedError on a replica, or lookup.ErrUnavailable;
// then nothing was imported.
func (db *DB) Import(ctx context.Context, r io.Reader, progress Progress) (Imported, error) {
	if err := db.mayWrite(); err != nil {
		return Imported{}, err
	}
	in := &importer{progress: progress}
	bad, err := eachChunk(&contextReader{ctx: ctx, r: r}, in.line)
	if err != nil {
		return Imported{}, err
	}
	in.sort(bad)
	in.schemes()
	err = db.enqueue(ctx, &request{alone: func() error { return in.apply(db) }})
	if err != nil {
		return Imported{}, err
	}
	in.result.Bad, in.result.Errors = bad.total, bad.errs
	return in.result, nil
}

type importer struct {
	progress Progress
	chunks   slots
	lines    atomic.Int64
	bytes    atomic.Int64
	records  []imported // sorted by name
	result   Imported
}

// imported is one record of the file.
type imported struct {
	number int
	name   string
	st     state
}

// line is called by several goroutines.
func (in *importer) line(chunk, number int, text string) error {
	n, b := in.lines.Add(1), in.bytes.Add(int64(len(text)+1))
	if n%progressEvery == 0 {
		in.chunks.call(func() {
			if in.progress != nil {
				in.progress(n, b)
			}
		})
	}
	if strings.HasPrefix(text, ":") {
		return netwin.Refuse("there is no name in front of the first colon")
	}
	name, st, err := parseLine(text)
	if err != nil {
		return err
	}
	in.chunks.add(chunk, imported{number, name, st})
	return nil
}

// sort brings the records into the order of their names, and leaves out the
// second one of a name.
func (in *importer) sort(bad *badLines) {
	in.records = in.chunks.all()
	// What an export wrote is sorted already, which costs next to nothing.
	slices.SortFunc(in.records, func(a, b imported) int {
		if c := strings.Compare(a.name, b.name); c != 0 {
			return c
		}
		return cmp.Compare(a.number, b.number)
	})
	var twice badLines
	first := 0
	in.records = slices.DeleteFunc(in.records, func(r imported) bool {
		if first > 0 && r.name == in.records[first-1].name {
			twice.add(r.number, netwin.Refuse("%s is there twice, first in line %d", r.name, in.records[first-1].number))
			return true
		}
		in.records[first] = r
		first++
		return false
	})
	bad.merge(twice)
}

// schemes counts the hashes that nobody can verify.
func (in *importer) schemes() {
	seen := make(map[string]bool)
	for _, r := range in.records {
		err := hash.Known(r.st.hash())
		if err == nil {
			continue
		}
		in.result.Unverifiable++
		if text := err.Error(); !seen[text] && len(seen) < maxReported {
			seen[text] = true
			in.result.Schemes = append(in.result.Schemes, text+", as of "+r.name)
		}
	}
}

// apply makes the imported records part of the database. Nothing else changes
// meanwhile.
func (in *importer) apply(db *DB) error {
	if len(in.records) == 0 {
		return nil
	}
	old := db.table.Load()
	next := newTable(len(in.records) + int(old.live.Load()))
	old.copyTo(next)
	mark := db.disk.mark
	for _, r := range in.records {
		was := next.state(r.name)
		name, st, err := was.replace(r.name, r.st)
		if err != nil {
			return err
		}
		next.put(name, st)
		mark = netwin.Mark{Position: mark.Position + 1, Sum: mark.Sum}
		if was.live() {
			in.result.Replaced++
		} else {
			in.result.Added++
		}
	}
	mark.Sum = newSum()
	return db.replaceAll(next, mark)
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, lookup.Unavailable("import into the user database", err)
	}
	return c.r.Read(p)
}

// Export writes every record as a line, in the order of their names, in the
// form that Import reads. Changes made meanwhile may or may not be in it.
func (db *DB) Export(ctx context.Context, w io.Writer, progress Progress) error {
	if err := db.whole(); err != nil {
		return err
	}
	bw := bufio.NewWriterSize(w, 64<<10)
	t := db.table.Load()
	var text []byte
	var lines, bytes int64
	for _, name := range t.names(false) {
		if err := ctx.Err(); err != nil {
			return lookup.Unavailable("export the user database", err)
		}
		text = t.appendLine(text[:0], name)
		if len(text) > 0 && text[0] == ':' {
			continue // deleted meanwhile
		}
		if _, err := bw.Write(text); err != nil {
			return err
		}
		lines++
		bytes += int64(len(text))
		if progress != nil && lines%progressEvery == 0 {
			progress(lines, bytes)
		}
	}
	return bw.Flush()
}
