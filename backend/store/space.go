package store

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"switchyard/backend"
)

// lookAgain is how long a look at the free space is believed.
const lookAgain = time.Second

// space refuses what adds to the store when the disk is nearly full, early
// enough for the log and Pebble's own work to go on: Pebble cannot live without
// its log. Behind that lies a ballast: a file that gives its blocks back at the
// first write that finds the disk full all the same, so that what is under way
// still gets through.
type space struct {
	s  *Store
	fs vfs.FS // that everything is written through

	mu      sync.Mutex
	looked  time.Time // zero: not yet
	free    int64
	known   bool // the file system can tell
	full    bool // a write found no space since the last look
	ballast bool
}

// ballastSize is what the ballast holds back.
const ballastSize = 32 << 20

func (sp *space) init(s *Store) {
	sp.s = s
	sp.fs = vfs.OnDiskFull(syncOnce{s.opts.FS}, sp.dropBallast)
	sp.look()
	if err := sp.makeBallast(); err != nil {
		s.log.Warn("no ballast against a full disk", zap.Error(err))
	}
}

// look asks the file system. The caller holds mu, or is alone.
func (sp *space) look() {
	sp.looked, sp.full = sp.s.opts.Clock(), false
	usage, err := sp.s.opts.FS.GetDiskUsage(sp.s.dir)
	sp.known = err == nil
	sp.free = int64(min(usage.AvailBytes, 1<<62))
}

// check refuses an addition of size bytes when there is no room for it.
func (sp *space) check(size int64) error {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.looked.IsZero() || sp.s.opts.Clock().Sub(sp.looked).Abs() > lookAgain {
		sp.look()
	}
	if sp.full || sp.known && sp.free < size+sp.s.opts.Reserve {
		return fmt.Errorf("disk full: %w", backend.ErrBusy)
	}
	return nil
}

// failed notes that a write failed.
func (sp *space) failed(err error) {
	if errors.Is(err, syscall.ENOSPC) {
		sp.mu.Lock()
		sp.full, sp.looked = true, sp.s.opts.Clock()
		sp.mu.Unlock()
	}
}

// dropBallast is called by the first of the writes that find the disk full;
// the others wait for it. They are tried once more then.
func (sp *space) dropBallast() {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.full, sp.looked = true, sp.s.opts.Clock()
	if sp.ballast {
		sp.ballast = false
		err := sp.s.opts.FS.Remove(sp.s.path("BALLAST"))
		sp.s.log.Error("the disk is full; the ballast is given up", zap.Error(err))
	}
}

// recover makes the ballast again once there is room.
func (sp *space) recover() error {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.look()
	return sp.makeBallast()
}

// makeBallast makes the file if the file system can tell its free space, and
// has plenty. The caller holds mu, or is alone.
func (sp *space) makeBallast() error {
	if sp.ballast || !sp.known || sp.free < 2*ballastSize+sp.s.opts.Reserve {
		return nil
	}
	f, err := sp.s.opts.FS.Create(sp.s.path("BALLAST"), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Preallocate(0, ballastSize), f.Close()); err != nil {
		return err
	}
	sp.ballast = true
	return nil
}
