package nwauth

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"go.uber.org/zap"

	"switchyard/lookup/internal/netwin"
)

type mergeResult struct {
	size int64 // of the new base
	err  error
}

// maybeMerge starts a merge when the log has grown enough. Changes go on
// meanwhile, into a new log.
func (d *disk) maybeMerge(t *table) {
	if d.merging {
		select {
		case result := <-d.merged:
			d.merging = false
			d.finish(result)
		default:
			return
		}
	}
	if d.writable() != nil || d.size < max(d.logSize, d.base/4, d.retryAt) {
		return
	}
	if err := d.rotate(); err != nil {
		d.postpone(err)
		return
	}
	d.merging = true
	head := meta{d.lineage, d.start}
	d.wg.Go(func() { d.merged <- d.merge(t, head) })
}

// settle waits for a merge that is under way.
func (d *disk) settle() {
	if d.merging {
		d.merging = false
		d.finish(<-d.merged)
	}
}

func (d *disk) finish(result mergeResult) {
	if result.err != nil {
		d.postpone(result.err)
		return
	}
	d.base, d.hasOld, d.retryAt = result.size, false, 0
}

// postpone lets the log grow as much again before the next attempt. Nothing
// is lost: the logs are read when the database is opened.
func (d *disk) postpone(err error) {
	d.logger.Warn("user database cannot be merged", zap.Error(err))
	d.retryAt = d.size + d.logSize
}

// rotate puts the log aside and begins a new one. A log that was put aside
// and not merged yet stays: the next base has the changes of both. When a
// step fails, the log that was open goes on, under either name.
func (d *disk) rotate() error {
	if d.hasOld && d.exists(logFile) {
		return nil
	}
	if !d.hasOld {
		if err := os.Rename(d.path(logFile), d.path(oldLogFile)); err != nil {
			return err
		}
		d.hasOld = true
		d.step("log put aside")
	}
	log, err := os.OpenFile(d.path(logFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, fileMode)
	if err != nil {
		return err
	}
	size, err := d.startLog(log)
	if err == nil {
		err = d.syncDir()
	}
	if err != nil {
		log.Close()
		os.Remove(d.path(logFile))
		return fmt.Errorf("begin a new log: %w", err)
	}
	d.log.Close()
	d.log, d.size, d.start = log, size, d.mark
	d.step("new log")
	return nil
}

// merge writes a new base and removes the log that was put aside. It takes
// each record as it is when its turn comes: whatever is newer than the log put
// aside is also in the new log, which is read after the base.
func (d *disk) merge(t *table, head meta) mergeResult {
	size, err := d.writeBase(t, head)
	if err != nil {
		os.Remove(d.path(newFile))
		return mergeResult{err: err}
	}
	if err := os.Rename(d.path(newFile), d.path(baseFile)); err != nil {
		return mergeResult{err: err}
	}
	d.step("base renamed")
	if err := d.syncDir(); err != nil {
		return mergeResult{err: fmt.Errorf("sync the directory: %w", err)}
	}
	d.step("base in place")
	if err := os.Remove(d.path(oldLogFile)); err != nil {
		return mergeResult{err: err}
	}
	d.step("old log removed")
	return mergeResult{size: size}
}

func (d *disk) writeBase(t *table, head meta) (int64, error) {
	f, err := os.OpenFile(d.path(newFile), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, fileMode)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	d.step("new base")
	w := bufio.NewWriterSize(f, 1<<20)
	size, err := w.WriteString(head.line())
	if err != nil {
		return 0, err
	}
	total := int64(size)
	var text []byte
	for _, name := range t.names(true) {
		text = t.appendLine(text[:0], name)
		n, err := w.Write(text)
		total += int64(n)
		if err != nil {
			return 0, err
		}
	}
	if err := w.Flush(); err != nil {
		return 0, err
	}
	d.step("base written")
	if err := f.Sync(); err != nil {
		return 0, err
	}
	d.step("base synced")
	return total, f.Close()
}

// replace puts a whole content in the place of all files. The moment at which
// the new base gets its name decides; the logs are void from then on.
func (d *disk) replace(t *table, mark netwin.Mark) error {
	d.settle()
	if err := d.writable(); err != nil {
		return err
	}
	size, err := d.writeBase(t, meta{d.lineage + 1, mark})
	if err == nil {
		err = os.Rename(d.path(newFile), d.path(baseFile))
	}
	if err != nil {
		os.Remove(d.path(newFile))
		return fmt.Errorf("write a new base: %w", err)
	}
	d.step("content replaced")
	if err := d.restartLog(mark); err != nil {
		d.fail(err)
		return fmt.Errorf("begin a new log: %w", err)
	}
	d.base, d.hasOld, d.retryAt = size, false, 0
	d.step("log restarted")
	return nil
}

// restartLog empties the log behind a base of the next lineage.
func (d *disk) restartLog(mark netwin.Mark) error {
	if err := d.syncDir(); err != nil {
		return err
	}
	d.lineage++
	d.mark, d.start = mark, mark
	if err := os.Remove(d.path(oldLogFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// The log that is open may be the one that was put aside.
	log, err := os.OpenFile(d.path(logFile), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, fileMode)
	if err != nil {
		return err
	}
	d.log.Close()
	d.log = log
	if d.size, err = d.startLog(log); err != nil {
		return err
	}
	return d.syncDir()
}
