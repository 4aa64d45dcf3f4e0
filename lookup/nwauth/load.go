package nwauth

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"

	"go.uber.org/zap"

	"switchyard/lookup/internal/netwin"
)

// loaded is what the files hold.
type loaded struct {
	table  *table
	events []event // the changes in the logs, as far as they are kept
	start  netwin.Mark
	fresh  bool // there was no file
}

// usualLine is the length of a record, for the first size of the table.
const usualLine = 250

// load reads the files in the order in which they were written, finishes a
// merge that was interrupted, and opens the log.
func (d *disk) load() (*loaded, error) {
	if err := os.Remove(d.path(newFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove an unfinished base: %w", err)
	}
	content := &loaded{fresh: !d.exists(baseFile) && !d.exists(logFile) && !d.exists(oldLogFile)}
	if err := d.readBase(content); err != nil {
		return nil, err
	}
	for _, file := range []string{oldLogFile, logFile} {
		if err := d.cutTorn(file); err != nil {
			return nil, err
		}
		if err := d.readLog(file, content); err != nil {
			return nil, err
		}
		d.hasOld = d.hasOld || file == oldLogFile && d.exists(file)
	}
	if err := d.openLog(content); err != nil {
		return nil, err
	}
	if len(content.events) == 0 {
		content.start = d.mark
	}
	if !d.hasOld {
		return content, nil
	}
	result := d.merge(content.table, meta{d.lineage, d.start})
	d.hasOld, d.base = false, result.size
	if result.err != nil {
		return nil, fmt.Errorf("finish an interrupted merge: %w", result.err)
	}
	return content, nil
}

// openLog opens the log for more lines. A database that has no mark yet gets
// one of its own.
func (d *disk) openLog(content *loaded) error {
	log, err := os.OpenFile(d.path(logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, fileMode)
	if err != nil {
		return err
	}
	d.log = log
	unmarked := d.mark.Sum == 0
	if unmarked {
		d.mark.Sum = newSum()
		content.events = nil
	}
	if d.size == 0 {
		d.start = d.mark
	}
	if unmarked || d.size == 0 {
		size, err := d.startLog(log)
		if err != nil {
			return err
		}
		d.size += size
	}
	return d.syncDir()
}

// newSum begins a history that is nobody else's.
func newSum() uint64 {
	var sum [8]byte
	rand.Read(sum[:]) // never fails
	return binary.BigEndian.Uint64(sum[:]) | 1
}

func (d *disk) exists(file string) bool {
	_, err := os.Stat(d.path(file))
	return err == nil
}

// readBase reads the base with all processors. A name may be in it once.
func (d *disk) readBase(content *loaded) error {
	f, err := os.Open(d.path(baseFile))
	if errors.Is(err, fs.ErrNotExist) {
		content.table = newTable(0)
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	d.base = info.Size()
	t := newTable(int(d.base / usualLine))
	content.table = t
	var head sync.Mutex
	bad, err := eachChunk(f, func(_, number int, text string) error {
		if number == 1 && strings.HasPrefix(text, metaStart) {
			m, err := parseMeta(text)
			head.Lock()
			defer head.Unlock()
			d.lineage, d.mark, d.start = m.lineage, m.mark, m.mark
			return err
		}
		name, st, err := parseLine(text)
		if err != nil {
			return err
		}
		if _, known := t.put(name, st); known {
			return netwin.Refuse("%s is there twice", name)
		}
		return nil
	})
	if err := errors.Join(err, bad.err()); err != nil {
		return fmt.Errorf("%s: %w", d.path(baseFile), err)
	}
	return nil
}

// readLog puts every line of a log into the table, and keeps the newest as
// events. A log of an older lineage is removed: the base has replaced it.
func (d *disk) readLog(file string, content *loaded) error {
	d.size = 0
	d.start = d.mark
	f, err := os.Open(d.path(file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var bad badLines
	void := false
	bytes, first := 0, true
	err = eachLine(f, func(number int, text string) error {
		if strings.HasPrefix(text, metaStart) {
			m, err := parseMeta(text)
			switch {
			case err != nil:
				bad.add(number, err)
			case m.lineage < d.lineage:
				void = true
				return io.EOF
			case m.lineage > d.lineage:
				bad.add(number, netwin.Refuse("the log belongs to a newer %s than the one that is there", baseFile))
			default:
				if m.mark != d.mark {
					content.events, bytes = nil, 0
				}
				d.mark = m.mark
				if first {
					d.start = m.mark
				}
			}
			return nil
		}
		first = false
		name, st, err := parseLine(text)
		if err != nil {
			bad.add(number, err)
			return nil
		}
		old := content.table.state(name)
		content.table.put(name, st)
		if len(content.events) == 0 {
			content.start = d.mark
		}
		d.mark = d.mark.Next(text)
		e := event{line: text, at: d.mark, name: name, sessions: old.endsSessions(st)}
		if bytes += e.size(); bytes > 2*historyBytes {
			content.events, bytes, content.start = nil, e.size(), content.events[len(content.events)-1].at
		}
		content.events = append(content.events, e)
		return nil
	})
	if void {
		d.logger.Info("removing a log that was replaced as a whole", zap.String("file", file))
		return os.Remove(d.path(file))
	}
	if err := errors.Join(err, bad.err()); err != nil {
		return fmt.Errorf("%s: %w", d.path(file), err)
	}
	d.size = info.Size()
	return nil
}

// chunkSize is how much of a file is parsed at a time, and kept in memory
// together.
const chunkSize = 1 << 20

// chunk is whole lines of a file.
type chunk struct {
	index int
	line  int // number of the first
	text  string
}

// eachChunk calls do with each line of a file that is not empty, as eachLine
// does, from several goroutines; lines of one chunk come in order. The errors
// of do are collected as bad lines, in the order of their numbers.
func eachChunk(r io.Reader, do func(chunk, number int, text string) error) (*badLines, error) {
	chunks := make(chan chunk)
	var mu sync.Mutex
	var wg sync.WaitGroup
	all := &badLines{}
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			var bad badLines
			for c := range chunks {
				c.each(&bad, do)
			}
			mu.Lock()
			defer mu.Unlock()
			all.merge(bad)
		})
	}
	err := readChunks(r, func(c chunk) { chunks <- c })
	close(chunks)
	wg.Wait()
	return all, err
}

func (c chunk) each(bad *badLines, do func(chunk, number int, text string) error) {
	text := c.text
	for number := c.line; text != ""; number++ {
		line, rest, _ := strings.Cut(text, "\n")
		text = rest
		if line = strings.TrimSuffix(line, "\r"); line == "" {
			continue
		}
		if err := do(c.index, number, line); err != nil {
			bad.add(number, err)
		}
	}
}

// readChunks cuts a file into chunks. A line that is too long for one is passed
// on cut, and is then refused by who parses it.
func readChunks(r io.Reader, emit func(chunk)) error {
	buf := make([]byte, 0, chunkSize)
	next := chunk{line: 1}
	skipping := false
	send := func(part []byte) {
		if len(part) == 0 {
			return
		}
		next.text = string(part)
		emit(next)
		next.index++
		next.line += bytes.Count(part, []byte{'\n'})
	}
	for {
		n, err := io.ReadFull(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		if skipping {
			// The rest of a line that was passed on cut.
			i := bytes.IndexByte(buf, '\n')
			if i < 0 {
				i = len(buf)
			} else {
				skipping = false
				next.line++
				i++
			}
			buf = append(buf[:0], buf[i:]...)
		}
		if err != nil {
			send(buf)
			return nil
		}
		end := bytes.LastIndexByte(buf, '\n') + 1
		if end == 0 && len(buf) == cap(buf) {
			end, skipping = len(buf), true
		}
		send(buf[:end])
		buf = append(buf[:0], buf[end:]...)
	}
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
