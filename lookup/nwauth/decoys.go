package nwauth

import (
	"hash/maphash"
	"math/rand/v2"
	"sync"

	"switchyard/lookup/nwauth/hash"
)

// decoys are hashes of real accounts, a random sample. One of them, always the
// same for the same name while the sample stays, is verified for a name that
// nobody has: so the time of an answer is spread over unknown names as it is
// over known ones, whatever schemes the database holds.
type decoys struct {
	seed maphash.Seed

	mu      sync.Mutex
	sample  []string
	offered int
	own     string // made when there is no sample
}

const decoyCount = 64

func newDecoys() *decoys { return &decoys{seed: maphash.MakeSeed()} }

// offer puts a hash into the sample with the odds that make the sample a fair
// one.
func (d *decoys) offer(stored string) {
	if hash.Locked(stored) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.offered++
	if len(d.sample) < decoyCount {
		d.sample = append(d.sample, stored)
	} else if i := rand.IntN(d.offered); i < decoyCount {
		d.sample[i] = stored
	}
}

func (d *decoys) forName(name string, cost hash.Argon2) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.sample); n > 0 {
		return d.sample[maphash.String(d.seed, name)%uint64(n)]
	}
	if d.own == "" {
		own, err := hash.New("nobody", cost)
		if err != nil {
			return ""
		}
		d.own = own
	}
	return d.own
}

// forget empties the sample.
func (d *decoys) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sample, d.offered = nil, 0
}
