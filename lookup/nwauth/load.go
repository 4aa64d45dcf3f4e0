package nwauth

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"go.uber.org/zap"

	"switchyard/lookup/internal/netwin"
)

// load reads the files in the order in which they were written, finishes a
// merge that was interrupted, and opens the log.
func (d *disk) load() error {
	if err := os.Remove(d.path(newFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove an unfinished base: %w", err)
	}
	base, err := d.read(baseFile, true)
	if err != nil {
		return err
	}
	d.base = base
	for _, file := range []string{oldLogFile, logFile} {
		if err := d.cutTorn(file); err != nil {
			return err
		}
		if d.size, err = d.read(file, false); err != nil {
			return err
		}
		d.hasOld = d.hasOld || file == oldLogFile && d.exists(file)
	}
	d.log, err = os.OpenFile(d.path(logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, fileMode)
	if err != nil {
		return err
	}
	if err := d.syncDir(); err != nil {
		return err
	}
	if !d.hasOld {
		return nil
	}
	result := d.merge()
	d.hasOld, d.base = false, result.size
	if result.err != nil {
		return fmt.Errorf("finish an interrupted merge: %w", result.err)
	}
	return nil
}

func (d *disk) exists(file string) bool {
	_, err := os.Stat(d.path(file))
	return err == nil
}

// read puts every line of a file into the table and returns the file's size;
// a missing file is an empty one. A name may be in the base once.
func (d *disk) read(file string, once bool) (int64, error) {
	f, err := os.Open(d.path(file))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	var bad badLines
	err = eachLine(f, func(number int, text string) error {
		name, st, err := parseLine(text)
		if err == nil && once && d.table.known(name) {
			err = netwin.Refuse("%s is there twice", name)
		}
		if err != nil {
			bad.add(number, err)
			return nil
		}
		d.table.put(name, st)
		return nil
	})
	if err := errors.Join(err, bad.err()); err != nil {
		return 0, fmt.Errorf("%s: %w", d.path(file), err)
	}
	return info.Size(), nil
}

// parseLine reads a line of the base or the log.
func parseLine(text string) (string, state, error) {
	if strings.HasPrefix(text, ":") {
		name, generation, err := parseDeletion(text)
		return name, state{generation: generation}, err
	}
	r, err := ParseRecord(text)
	if err != nil {
		return "", state{}, err
	}
	generation, err := netwin.ParseGeneration(r.Labels[netwin.Generation])
	return r.Name, state{record: r, live: true, generation: generation}, err
}

// cutTorn cuts off what stands behind the last line end of a log: the part of
// a write that nobody was told of.
func (d *disk) cutTorn(file string) error {
	f, err := os.OpenFile(d.path(file), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	keep, err := lastLineEnd(f, size)
	if err != nil || keep == size {
		return err
	}
	d.logger.Warn("cutting off a torn write", zap.String("file", file), zap.Int64("bytes", size-keep))
	if err := f.Truncate(keep); err != nil {
		return err
	}
	return f.Sync()
}

// lastLineEnd returns the offset behind the last line end within size bytes.
func lastLineEnd(f io.ReaderAt, size int64) (int64, error) {
	buf := make([]byte, 64<<10)
	for end := size; end > 0; {
		start := max(0, end-int64(len(buf)))
		part := buf[:end-start]
		if _, err := f.ReadAt(part, start); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			return start + int64(i) + 1, nil
		}
		end = start
	}
	return 0, nil
}
