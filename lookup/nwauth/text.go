package nwauth

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"switchyard/lookup/internal/netwin"
)

// LineError is a line of a file that is no record. It never shows the line.
type LineError struct {
	Line int // the first is 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }
func (e *LineError) Unwrap() error { return e.Err }

// maxReported bounds how many bad lines one error names.
const maxReported = 20

// ReadRecords reads a whole file of records, for a directory that is kept in a
// file. Bad lines and names that are there twice are reported together, each
// as a LineError (the first 20 of them); then there are no records.
func ReadRecords(r io.Reader) ([]Record, error) {
	var records []Record
	var bad badLines
	first := make(map[string]int)
	err := eachLine(r, func(number int, line string) error {
		record, err := ParseRecord(line)
		if err != nil {
			bad.add(number, err)
			return nil
		}
		if at := first[record.Name]; at > 0 {
			bad.add(number, netwin.Refuse("%s is there twice, first in line %d", record.Name, at))
			return nil
		}
		first[record.Name] = number
		records = append(records, record)
		return nil
	})
	if err := errors.Join(err, bad.err()); err != nil {
		return nil, err
	}
	return records, nil
}

// badLines collects what is wrong with a file, in bounded memory.
type badLines struct {
	errs  []error
	total int
}

func (b *badLines) add(number int, err error) {
	if b.total++; len(b.errs) < maxReported {
		b.errs = append(b.errs, &LineError{Line: number, Err: err})
	}
}

// merge adds what others found in the same file.
func (b *badLines) merge(others badLines) {
	b.total += others.total
	b.errs = append(b.errs, others.errs...)
	slices.SortFunc(b.errs, func(x, y error) int { return lineOf(x) - lineOf(y) })
	b.errs = b.errs[:min(len(b.errs), maxReported)]
}

func lineOf(err error) int {
	var e *LineError
	errors.As(err, &e)
	return e.Line
}

func (b *badLines) err() error {
	if more := b.total - len(b.errs); more > 0 {
		return errors.Join(append(b.errs, fmt.Errorf("and %d more bad lines", more))...)
	}
	return errors.Join(b.errs...)
}

// eachLine calls do with each line that is not empty, without its line end
// (LF or CRLF). A last line without one counts. A line that is too long is
// passed on cut, and is then refused by who parses it. It stops at the first
// error of do.
func eachLine(r io.Reader, do func(number int, line string) error) error {
	br := bufio.NewReaderSize(r, netwin.MaxLine+2)
	for number := 1; ; number++ {
		line, err := br.ReadSlice('\n')
		text := strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r")
		for err == bufio.ErrBufferFull {
			_, err = br.ReadSlice('\n')
		}
		if err != nil && err != io.EOF {
			return err
		}
		if text != "" {
			if err := do(number, text); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

// Records yields the records of a file, for another database; an error beside a
// record is a LineError for a line that is none, or, at the end, the reader's.
func Records(r io.Reader) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		err := eachLine(r, func(number int, line string) error {
			record, err := ParseRecord(line)
			if err != nil {
				err = &LineError{Line: number, Err: err}
			}
			if !yield(record, err) {
				return errEnough
			}
			return nil
		})
		if err != nil && err != errEnough {
			yield(Record{}, err)
		}
	}
}

var errEnough = errors.New("enough")

// AppendRecord writes a record as its line, line end included. The record must
// be one that ParseRecord would read, as another database's are.
func AppendRecord(dst []byte, r Record) []byte { return append(appendRecord(dst, r), '\n') }
