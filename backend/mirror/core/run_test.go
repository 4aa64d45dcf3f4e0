package core

import (
	"flag"
	"fmt"
	"testing"
)

var (
	simSeeds = flag.Uint64("seeds", 150, "how many seeds the simulation runs")
	simFirst = flag.Uint64("first", 1, "the first of them")
	simSteps = flag.Int("steps", 1000, "how many steps a seed has")
)

// run simulates one seed.
func run(seed uint64, steps int) *world {
	modes := []mode{{fenced: true}, {}, {fenced: true}, {fenced: true, forced: true}}
	w := newWorld(seed, modes[seed%4])
	for range steps {
		if w.step(); w.failure != "" {
			return w
		}
	}
	w.settle()
	return w
}

// TestSimulation proves the mirror's promises under faults: acknowledged mail is
// there exactly once, a UID names one message for ever, no client sees UIDNEXT
// or HIGHESTMODSEQ fall, no two nodes write in one epoch, and both nodes come to
// be the same by themselves. A seed that fails is printed; -first and -seeds 1
// run it again.
func TestSimulation(t *testing.T) {
	happened := make(map[string]int)
	seeds := *simSeeds
	if testing.Short() {
		seeds = min(seeds, 100)
	}
	for seed := *simFirst; seed < *simFirst+seeds; seed++ {
		w := run(seed, *simSteps)
		if w.failure != "" {
			for _, line := range w.trace {
				t.Log(line)
			}
			t.Fatalf("seed %d (%+v): %s", seed, w.mode, w.failure)
		}
		for k, n := range w.happened {
			happened[k] += n
		}
	}
	t.Log(happened)
	if seeds < 100 {
		return
	}
	for _, k := range []string{
		"arbiter alone", "arbiter both", "arbiter down", "arbiter neither", "both crash", "both delivered", "claim lost", "crash", "cut", "disk lost",
		"duplicate", "forward", "healed", "joined", "merge", "one-way", "partition", "pause", "promote", "quarantine",
		"read busy", "read ok", "renumbered", "side block", "silence", "snapshot", "write busy", "write ok", "write unknown",
	} {
		if happened[k] < int(seeds)/40 {
			t.Errorf("%q happened only %d times in %d seeds", k, happened[k], seeds)
		}
	}
}

// TestSimulationIsRepeatable proves that a seed that failed will fail again.
func TestSimulationIsRepeatable(t *testing.T) {
	for seed := uint64(1); seed <= 4; seed++ {
		a, b := run(seed, 400), run(seed, 400)
		if x, y := fmt.Sprint(a.trace, a.happened), fmt.Sprint(b.trace, b.happened); x != y {
			t.Fatalf("seed %d differs from itself:\n%s\n%s", seed, x, y)
		}
	}
}
