package store

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
)

// TestCloseLeavesNothing: what Open started, Close has ended.
func TestCloseLeavesNothing(t *testing.T) {
	before := goleak.IgnoreCurrent()
	s := openStore(t, vfs.NewMem(), Options{Instances: 2})
	u := createUser(t, s, bob)
	deliver(t, u, 1, text(1))
	closeStore(t, s)
	goleak.VerifyNone(t, before)
}
