package static_test

import (
	"slices"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/static"
)

func TestFeed(t *testing.T) {
	t.Parallel()
	d, err := static.New(plain, static.Options{Records: records()})
	if err != nil {
		t.Fatal(err)
	}
	now := records()
	without := func(name string) {
		now = slices.DeleteFunc(slices.Clone(now), func(r static.Record) bool {
			clean, err := lookup.CleanName(r.Account.Name, "")
			return err != nil || clean == name
		})
	}
	replace := func(t *testing.T) {
		if err := d.Replace(now); err != nil {
			t.Fatal(err)
		}
	}
	lookuptest.RunFeed(t, lookuptest.FeedFixture{
		Open: func(*testing.T) lookup.Watcher { return d },
		Set: func(t *testing.T, r lookuptest.Record) {
			without(r.Name)
			now = append(now, static.Record{Account: r.Account, Hash: "plain:" + r.Password})
			replace(t)
		},
		Delete: func(t *testing.T, name string) { without(name); replace(t) },
	})
}

// TestMatrix is the row "static" of the matrix in lookup/tcpauth: bare and
// behind a cache, with a fault injector before it, since it asks nothing.
func TestMatrix(t *testing.T) {
	t.Parallel()
	lookuptest.RunAll(t, lookuptest.Row{Open: func(t *testing.T, _ time.Duration) (lookup.Directory, lookuptest.Faults) {
		d, err := static.New(plain, static.Options{Records: records()})
		if err != nil {
			t.Fatal(err)
		}
		return d, nil
	}})
}

func TestHostileNames(t *testing.T) {
	t.Parallel()
	lookuptest.RunHostile(t, func(t *testing.T) lookup.Directory {
		d, err := static.New(plain, static.Options{Records: records()})
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}
