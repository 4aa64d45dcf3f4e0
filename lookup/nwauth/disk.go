package nwauth

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"go.uber.org/zap"

	"switchyard/lookup/internal/netwin"
)

// ErrLocked says that another process has the database open.
var ErrLocked = errors.New("the directory is open in another process")

// The files of a database.
const (
	baseFile   = "nwauth.txt"
	newFile    = "nwauth.txt.new" // a base that is being written
	logFile    = "nwauth.add"
	oldLogFile = "nwauth.add.old" // the log whose changes are being merged
	lockFile   = "nwauth.lock"
)

// The files hold password hashes.
const (
	dirMode  = 0o700
	fileMode = 0o600
)

// disk is the files of an open database. After openDisk only the committer
// uses it, and close once the committer has ended.
type disk struct {
	dir    string
	logger *zap.Logger
	step   func(string)

	lock    *os.File
	log     *os.File
	size    int64                 // of the log; all of it is synced between two appends
	base    int64                 // size of the base
	logSize int64                 // Options.LogSize
	lineage int                   // of the base; see meta
	start   netwin.Mark           // in front of the log's first change
	mark    netwin.Mark           // behind its last
	broken  atomic.Pointer[error] // why nothing can be made durable any more

	hasOld  bool  // oldLogFile exists and is not merged yet
	retryAt int64 // size of the log at which a failed merge is tried again
	merging bool
	merged  chan mergeResult // receives one result for each merge
	wg      sync.WaitGroup
}

// openDisk locks the directory, reads its files and opens the log.
func openDisk(dir string, opts Options, step func(string)) (*disk, *loaded, error) {
	if step == nil {
		step = func(string) {}
	}
	d := &disk{
		dir: dir, logger: opts.Logger, step: step,
		logSize: opts.LogSize, merged: make(chan mergeResult, 1),
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, nil, fmt.Errorf("open user database: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, nil, err
	}
	d.lock = lock
	content, err := d.load()
	if err != nil {
		d.close()
		return nil, nil, err
	}
	return d, content, nil
}

// lockDir takes the lock that is freed when the process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, fileMode)
	if err != nil {
		return nil, fmt.Errorf("lock user database: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if err == syscall.EWOULDBLOCK {
			return nil, fmt.Errorf("lock user database: %s: %w", dir, ErrLocked)
		}
		return nil, fmt.Errorf("lock user database %s: %w", dir, err)
	}
	return f, nil
}

func (d *disk) path(file string) string { return filepath.Join(d.dir, file) }

// append makes lines durable, and mark the one behind them. When it fails they are not in the log, or the
// log takes no more until the database is opened again: after a failed sync
// nobody knows what is on the disk.
func (d *disk) append(lines []byte, mark netwin.Mark) error {
	if err := d.writable(); err != nil {
		return err
	}
	d.step("append")
	if _, err := d.log.Write(lines); err != nil {
		if undo := d.log.Truncate(d.size); undo != nil {
			d.fail(undo)
		}
		return fmt.Errorf("write to %s: %w", logFile, err)
	}
	d.step("sync")
	if err := d.log.Sync(); err != nil {
		d.fail(err)
		return fmt.Errorf("sync %s: %w", logFile, err)
	}
	d.size += int64(len(lines))
	d.mark = mark
	d.step("synced")
	return nil
}

func (d *disk) fail(err error) {
	broken := fmt.Errorf("user database takes no changes until it is opened again: %w", err)
	d.broken.Store(&broken)
	d.logger.Error("user database cannot be written", zap.Error(err))
}

// writable returns why nothing can be written any more. Any goroutine may ask.
func (d *disk) writable() error {
	if broken := d.broken.Load(); broken != nil {
		return *broken
	}
	return nil
}

// meta is a line that only a file of ours has:
//
//	::lineage="1" mark="120-0123456789abcdef"
//
// It begins a base and a log. The mark is that of the changes in front of what
// follows, or, in a base, of those that the log does not repeat. The lineage
// grows when the whole content is replaced at once: the new base makes the logs
// of an older lineage void at the moment at which it gets its name.
type meta struct {
	lineage int
	mark    netwin.Mark
}

const metaStart = "::"

func (m meta) line() string {
	return fmt.Sprintf("%slineage=\"%d\" mark=\"%s\"\n", metaStart, m.lineage, m.mark)
}

func parseMeta(text string) (m meta, err error) {
	labels, err := netwin.ParseLabels(text[len(metaStart):])
	if err != nil {
		return m, err
	}
	if m.lineage, err = strconv.Atoi(labels["lineage"]); err != nil || m.lineage < 0 {
		return m, netwin.Refuse("the lineage is not a number")
	}
	m.mark, err = netwin.ParseMark(labels["mark"])
	return m, err
}

// startLog writes the first line of a log that is empty, and makes it durable.
func (d *disk) startLog(log *os.File) (int64, error) {
	text := meta{d.lineage, d.mark}.line()
	if _, err := log.WriteString(text); err != nil {
		return 0, err
	}
	if err := log.Sync(); err != nil {
		return 0, err
	}
	return int64(len(text)), nil
}

// close waits for a merge and gives up the files and the lock.
func (d *disk) close() error {
	d.wg.Wait()
	var err error
	if d.log != nil {
		err = d.log.Close()
	}
	d.lock.Close()
	return err
}

// syncDir makes the names in the directory durable.
func (d *disk) syncDir() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
