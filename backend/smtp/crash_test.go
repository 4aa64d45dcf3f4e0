package smtp

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// image is what a disk would hold if the machine lost power at one moment,
// without the bytes that were not synced, and what had been answered by then.
type image struct {
	fs    *vfs.MemFS
	acked int32
}

// camera takes an image before each sync.
type camera struct {
	fs    *vfs.MemFS
	acked atomic.Int32

	mu     sync.Mutex
	images []image
	off    bool
}

func (c *camera) maybe(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
	default:
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.off {
		acked := c.acked.Load() // first: what is answered later may be missing
		c.images = append(c.images, image{c.fs.CrashClone(vfs.CrashCloneCfg{}), acked})
	}
	return nil
}

// TestPowerLoss submits and delivers messages, and starts the node again from
// each image: nothing that was answered 250 is missing, nothing is there twice.
func TestPowerLoss(t *testing.T) {
	cam := &camera{fs: vfs.NewCrashableMem()}
	n := newNode(t, settings{fs: errorfs.Wrap(cam.fs, errorfs.InjectorFunc(cam.maybe))})
	subm := n.secured(n.subm.ServeTLS)
	subm.run(userLogin)
	lmtp := n.secured(n.lmtp.ServeTLS)
	lmtp.run(proxyLogin)
	const rounds = 3
	for i := range rounds {
		subm.run(mailToBen)
		cam.acked.Add(1)
		deliver(lmtp, "X: y", strings.Repeat("i", i+1)+"@out.test", "anna@here.test")
		lmtp.run("S: 250 2.1.5 delivered")
		cam.acked.Add(1)
	}
	eventually(t, "the queue is empty", func() bool { return n.queue.Len() == 0 })
	cam.mu.Lock()
	cam.off = true
	cam.mu.Unlock()
	n.stop()
	if len(cam.images) < 10 {
		t.Fatalf("only %d images", len(cam.images))
	}
	t.Logf("%d images", len(cam.images))
	step := 1
	if testing.Short() {
		step = 3
	}
	for i := 0; i < len(cam.images); i += step {
		img := cam.images[i]
		again := newNode(t, settings{fs: img.fs})
		eventually(t, "the queue is empty", func() bool { return again.queue.Len() == 0 })
		// Odd answers are submissions, even ones deliveries.
		wantBen, wantAnna := int((img.acked+1)/2), int(img.acked/2)
		ben, anna := again.inbox("ben"), again.inbox("anna")
		if len(ben) < wantBen || len(ben) > wantBen+1 || twice(ben) {
			t.Errorf("image %d: %d of ben's messages, %d were answered", i, len(ben), wantBen)
		}
		if len(anna) < wantAnna || len(anna) > wantAnna+1 || twice(anna) {
			t.Errorf("image %d: %d of anna's messages, %d were answered", i, len(anna), wantAnna)
		}
		if len(anna) > 0 {
			// The proxy that got no answer sends the message again.
			c := again.secured(again.lmtp.ServeTLS)
			c.run(proxyLogin)
			deliver(c, "X: z", strings.Repeat("i", len(anna))+"@out.test", "anna@here.test")
			c.run("S: 250 2.1.5 delivered before")
		}
		again.stop()
	}
}

// twice reports whether two messages have one Message-ID.
func twice(messages []string) bool {
	seen := make(map[string]bool)
	for _, m := range messages {
		_, rest, _ := strings.Cut(m, "Message-ID: ")
		id, _, _ := strings.Cut(rest, "\r\n")
		if seen[id] {
			return true
		}
		seen[id] = true
	}
	return false
}
