package static_test

import (
	"slices"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/cache"
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

// TestContractBehindACache: with a fault injector between.
func TestContractBehindACache(t *testing.T) {
	t.Parallel()
	var faults *lookuptest.Faulty
	lookuptest.Run(t, lookuptest.Fixture{
		Open: func(t *testing.T) lookup.Directory {
			d, err := static.New(plain, static.Options{Records: records()})
			if err != nil {
				t.Fatal(err)
			}
			faults = lookuptest.NewFaulty(d, time.Second)
			c, err := cache.New(faults, cache.Options{Timeout: time.Second, Patience: 10 * time.Millisecond, BackOff: 30 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			return c
		},
		Break: func(*testing.T) { faults.Stop() }, Hang: func(*testing.T) { faults.Hang() }, Mend: func(*testing.T) { faults.Mend() },
		Timeout: time.Second,
	})
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
