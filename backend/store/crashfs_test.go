package store

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// crashFS is a file system in memory which can say, before and after every
// sync, what a power failure at this moment would leave.
type crashFS struct {
	vfs.FS
	mem *vfs.MemFS

	syncs atomic.Int64 // made so far, of files and directories
	mu    sync.Mutex
	crash func(point int64, left *vfs.MemFS) // nil: not wanted
	keep  []int                              // percentages of the unsynced blocks that survive
}

func newCrashFS(mem *vfs.MemFS) *crashFS { return &crashFS{FS: mem, mem: mem, keep: []int{0, 50}} }

// at takes the clones.
func (c *crashFS) at() {
	point := c.syncs.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.crash == nil {
		return
	}
	for _, percent := range c.keep {
		cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(uint64(point), uint64(percent)))}
		c.crash(point, c.mem.CrashClone(cfg))
	}
}

// onCrash sets what is done with the clones.
func (c *crashFS) onCrash(f func(point int64, left *vfs.MemFS)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.crash = f
}

type crashFile struct {
	vfs.File
	fs *crashFS
}

func (f *crashFile) Sync() error {
	f.fs.at()
	defer f.fs.at()
	return f.File.Sync()
}

func (f *crashFile) SyncData() error {
	f.fs.at()
	defer f.fs.at()
	return f.File.SyncData()
}

func (c *crashFS) wrap(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &crashFile{f, c}, nil
}

func (c *crashFS) Create(name string, cat vfs.DiskWriteCategory) (vfs.File, error) {
	return c.wrap(c.FS.Create(name, cat))
}

func (c *crashFS) OpenReadWrite(name string, cat vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return c.wrap(c.FS.OpenReadWrite(name, cat, o...))
}

func (c *crashFS) ReuseForWrite(old, name string, cat vfs.DiskWriteCategory) (vfs.File, error) {
	return c.wrap(c.FS.ReuseForWrite(old, name, cat))
}

func (c *crashFS) OpenDir(name string) (vfs.File, error) { return c.wrap(c.FS.OpenDir(name)) }

func TestCrashFS(t *testing.T) {
	fs := newCrashFS(vfs.NewCrashableMem())
	n := 0
	fs.onCrash(func(int64, *vfs.MemFS) { n++ })
	f, err := fs.Create("x", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte("x"))
	if err := f.Sync(); err != nil || n != 4 {
		t.Errorf("%d clones of a sync, %v", n, err)
	}
}
