package store

import (
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// syncOnce is a file system whose sync errors nobody takes for a full disk:
// what wraps it may try a write again, but never a sync, since the kernel
// forgets what it could not write when it has told of it once.
type syncOnce struct{ vfs.FS }

type syncOnceFile struct{ vfs.File }

// newManifest is one of Pebble's manifests, just created. A marker file, whose
// name may become durable at any time, is about to point at it, and POSIX does
// not promise that the sync of a new file makes its name durable: so its first
// sync does that too.
type newManifest struct {
	syncOnceFile
	fs    vfs.FS
	dir   string
	named atomic.Bool
}

func (f *newManifest) Sync() error     { return f.andName(f.syncOnceFile.Sync()) }
func (f *newManifest) SyncData() error { return f.andName(f.syncOnceFile.SyncData()) }

func (f *newManifest) andName(err error) error {
	if err != nil || f.named.Swap(true) {
		return err
	}
	return final(syncDirs(f.fs, f.dir))
}

// final hides what kind of error it was.
func final(err error) error {
	if err != nil {
		return fmt.Errorf("sync: %v", err)
	}
	return nil
}

func (f syncOnceFile) Sync() error     { return final(f.File.Sync()) }
func (f syncOnceFile) SyncData() error { return final(f.File.SyncData()) }

func (f syncOnceFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, final(err)
}

func syncsOnce(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return syncOnceFile{f}, nil
}

func (s syncOnce) Unwrap() vfs.FS { return s.FS }

func (s syncOnce) Create(name string, cat vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := syncsOnce(s.FS.Create(name, cat))
	if err == nil && strings.HasPrefix(s.PathBase(name), "MANIFEST-") {
		return &newManifest{syncOnceFile: f.(syncOnceFile), fs: s.FS, dir: s.PathDir(name)}, nil
	}
	return f, err
}

func (s syncOnce) OpenReadWrite(name string, cat vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return syncsOnce(s.FS.OpenReadWrite(name, cat, o...))
}

func (s syncOnce) ReuseForWrite(old, name string, cat vfs.DiskWriteCategory) (vfs.File, error) {
	return syncsOnce(s.FS.ReuseForWrite(old, name, cat))
}

func (s syncOnce) OpenDir(name string) (vfs.File, error) { return syncsOnce(s.FS.OpenDir(name)) }
