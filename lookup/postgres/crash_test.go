package postgres

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"switchyard/lookup/postgres/postgrestest"
)

// testKill kills the database with changes in flight: what was acknowledged is
// there afterwards, the same DBs go on by themselves, and the feed has told of
// everything.
func testKill(t *testing.T, c *postgrestest.Server) {
	const writers = 6
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	dsn := c.NewDatabase(t)
	dbs := []*DB{open(t, dsn, Options{}), open(t, dsn, Options{})}
	f := follow(t, open(t, dsn, Options{}), dbs[0])
	var newest [writers]int
	name := func(w int) string { return fmt.Sprintf("user%d@x.test", w) }
	for w := range writers {
		if _, err := dbs[0].Set(t.Context(), name(w), ptr("p"), map[string]string{"tohost": "b0"}); err != nil {
			t.Fatal(err)
		}
	}
	for round := range rounds {
		var mu sync.Mutex
		count := 0
		enough := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for n := newest[w] + 1; ; n++ {
					value := strconv.Itoa(n)
					if _, err := dbs[w%2].Set(ctx, name(w), nil, map[string]string{"n": value, "tohost": "b" + value}); err != nil {
						return
					}
					mu.Lock()
					newest[w] = n
					if count++; count == 20 {
						close(enough)
					}
					mu.Unlock()
				}
			})
		}
		<-enough
		c.Kill()
		cancel()
		wg.Wait()
		c.Start()
		for w := range writers {
			a, err := dbs[w%2].Lookup(t.Context(), name(w))
			if err != nil {
				t.Fatalf("round %d: %s: %v", round, name(w), err)
			}
			got, _ := strconv.Atoi(a.Attributes["n"])
			if got != newest[w] && got != newest[w]+1 {
				t.Errorf("round %d: %s has %d, acknowledged was %d", round, name(w), got, newest[w])
			}
			// Each change was a move: the generation counts them.
			if a.Home != fmt.Sprint("b", got) || a.Generation != uint64(got)+1 {
				t.Errorf("round %d: %s: home %s and generation %d with the number %d", round, name(w), a.Home, a.Generation, got)
			}
			newest[w] = got
		}
	}
	told := make(map[string]int)
	total := 0
	for w := range writers {
		total += newest[w] + 1
	}
	for range total {
		told[f.next(t).Name]++
	}
	for w := range writers {
		if got := told[name(w)]; got != newest[w]+1 {
			t.Errorf("%s: told of %d changes, want %d", name(w), got, newest[w]+1)
		}
	}
}
