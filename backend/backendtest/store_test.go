package backendtest

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"switchyard/backend"
	"switchyard/backend/store"
)

// TestStore runs the contract against the store, with many instances, small
// segments and hardly any cache, so that all of its paths are walked.
func TestStore(t *testing.T) {
	for name, opts := range map[string]store.Options{
		"Default": {},
		"Small":   {Instances: 3, Writers: 1, SegmentLimit: 2000, CacheMessages: 1, CacheUsers: 1, LogKeep: 70},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Run(t, func(t *testing.T) backend.Store {
				opts.FS = vfs.NewMem()
				s, err := store.Open("store", opts)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := s.Check(context.Background()); err != nil {
						t.Errorf("check: %v", err)
					}
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
				return s
			})
		})
	}
}
