package store

import (
	"io"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"switchyard/backend/effect"
	"switchyard/backend/store/segment"
)

// Options shape a Store. The zero value works.
type Options struct {
	FS     vfs.FS           // nil: the disk; a test gives vfs.NewMem()
	Logger *zap.Logger      // nil: none
	Clock  func() time.Time // nil: time.Now

	MaxMessage    int64 // bytes of one message; 0: 50 MB
	Instances     int   // Pebble databases; 0: 1. A store keeps what it was made with.
	Writers       int   // segments written to at the same time; 0: 2
	SegmentLimit  int64 // bytes after which a segment is sealed; 0: 256 MB
	CacheMessages int   // messages of mailboxes kept in memory, about 130 bytes each; 0: 500,000
	CacheUsers    int   // accounts kept in memory when nobody uses them; 0: 4,096
	BlockCache    int64 // bytes of Pebble's cache, all instances together; 0: 64 MB
	MemTable      int64 // bytes of one memtable, of which an instance has up to four; 0: 16 MB
	LogKeep       int   // records of each shard's log kept after they are applied; 0: 10,000
	Reserve       int64 // bytes of free disk below which nothing is added; 0: 64 MB

	// CompactRate bounds the bytes a second that compaction reads, in the
	// background; it writes less than half of that. 0: 16 MB; below: no
	// compaction but by Compact.
	CompactRate int64

	// Replicator is told of every change; nil: none.
	Replicator Replicator

	// Commit makes the store one half of a mirror. It says how far a shard's log
	// counts when the store is opened: no more of it is applied, the rest waits
	// for Apply, or for AppendLog to take it away. No shard takes changes before
	// SetWriter opens it. Nil: all of the log counts, and all shards are open.
	Commit func(shard uint8, log effect.Log) uint64

	// Fatal ends the process when the disk has failed to sync, after which
	// nothing can be promised. Nil: the logger's Fatal, which exits.
	Fatal func(error)
}

func (o *Options) defaults() {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	set(&o.MaxMessage, 50<<20)
	set(&o.Instances, 1)
	set(&o.CacheMessages, 500_000)
	set(&o.CacheUsers, 4096)
	set(&o.BlockCache, 64<<20)
	set(&o.MemTable, 16<<20)
	set(&o.LogKeep, 10_000)
	set(&o.Reserve, 64<<20)
	if o.CompactRate == 0 {
		o.CompactRate = 16 << 20
	}
	if o.Fatal == nil {
		logger := o.Logger
		o.Fatal = func(err error) { logger.Fatal("the store cannot go on", zap.Error(err)) }
	}
}

// set gives an option its default.
func set[T int | int64](v *T, to T) {
	if *v <= 0 {
		*v = to
	}
}

// Replicator takes part in every change: a mirror ships it to the peer. The
// change is acknowledged, and seen by anybody, only after both the local disk
// and the Replicator have it.
type Replicator interface {
	// ShipBody ships a body while it is being written here. The record that
	// refers to it follows, or never does. An error refuses the change, which
	// can be tried again.
	ShipBody(shard uint8, info segment.Info, body io.ReaderAt, size int64) error

	// ShipRecord is called with each record in the order of its shard, before
	// it is synced here. It must not wait: the Ack does. encoded stays valid
	// and must not be changed.
	ShipRecord(r *effect.Record, encoded []byte) Ack
}

// Ack is the Replicator's answer for one record.
type Ack interface {
	// Wait returns once the record may be acknowledged. An error means that
	// nobody knows what will become of it: the change is answered with
	// backend.ErrOutcomeUnknown, and the shard takes no more until the store is
	// opened again; in a mirror, until Apply has applied the record or AppendLog
	// has taken it away.
	Wait() error
}
