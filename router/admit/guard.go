package admit

import (
	"hash/maphash"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// GuardOptions for NewGuard. The zero value works.
type GuardOptions struct {
	// Free is how many failed logins of an address go without a delay, beside
	// the one that each connection has for itself; a user has half as many. Zero
	// means 10, less than zero that the guard lets everything pass.
	Free int

	// Delay is the delay behind the first failure that is not free. It doubles
	// with each. Zero means a second.
	Delay time.Duration

	// MaxDelay bounds the delay between two tries of an address. Zero means 5
	// minutes.
	MaxDelay time.Duration

	// MaxUserDelay bounds the delay for a user's sake, which an address has that
	// has done nothing itself. Zero means 4 seconds.
	MaxUserDelay time.Duration

	// MaxWait is how long a try is held until its time has come; one that would
	// have to wait longer is told "not now" at once. Zero means 10 seconds.
	MaxWait time.Duration

	// HalfLife is how fast failures are forgotten: half of them in this time.
	// Zero means 10 minutes.
	HalfLife time.Duration

	// Trust is how long an address stays known as a user's own after a login.
	// Zero means 7 days.
	Trust time.Duration

	// Entries bounds the addresses and, each time anew, the users and the
	// pairs of both that are remembered; those that were heard of least lately
	// are forgotten. Zero means 65,536: about 40 MB when an attack has filled
	// all three.
	Entries int

	// Exempt are networks that are never delayed: a webmail's, whose users all
	// come from there.
	Exempt []netip.Prefix
}

func (o *GuardOptions) fill() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if o.Free == 0 {
		o.Free = 10
	}
	if o.Entries <= 0 {
		o.Entries = 1 << 16
	}
	def(&o.Delay, time.Second)
	def(&o.MaxDelay, 5*time.Minute)
	def(&o.MaxUserDelay, 4*time.Second)
	def(&o.MaxWait, 10*time.Second)
	def(&o.HalfLife, 10*time.Minute)
	def(&o.Trust, 7*24*time.Hour)
}

// trustedFailures is how many wrong passwords an address that is a user's own may
// try before it is treated like any other.
const trustedFailures = 3

// Guard slows down those who guess passwords. An address (a /64 with IPv6) that
// fails has to wait longer and longer between its tries, over all its
// connections, and is told "not now" when it does not wait. A user at whom many
// addresses fail is shielded by a short delay.
//
// It never locks a user out. An address from which the user has lately logged in
// is not delayed, whatever others do. An address that has not failed itself is
// delayed by MaxUserDelay at the most, and never refused. A wrong password that
// was tried before is not counted again: a telephone with an old password is no
// attack.
//
// All of it is in memory, bounded, and lost with the process. It is safe for
// concurrent use.
type Guard struct {
	o    GuardOptions
	seed maphash.Seed

	mu        sync.Mutex
	addresses *bounded[netip.Prefix, record]
	users     *bounded[digest, record]
	own       *bounded[pair, trust]
}

// digest is a hash under a secret of this process, long enough for chance hits to
// be unlikely: memory holds neither names nor passwords.
type digest uint64

// pair is a user at an address.
type pair struct {
	network netip.Prefix
	user    digest
}

// trust is what makes a pair a good one.
type trust struct {
	login    time.Time
	failures int
}

// record is what is held against an address or a user.
type record struct {
	failures float64 // at the time of at; see fade
	at       time.Time
	next     time.Time // when the next try may be made
	tried    [4]digest // the latest wrong passwords, with their users
	i        int
}

// NewGuard makes a guard.
func NewGuard(o GuardOptions) *Guard {
	o.fill()
	g := &Guard{
		o:         o,
		seed:      maphash.MakeSeed(),
		addresses: newBounded[netip.Prefix, record](o.Entries),
		users:     newBounded[digest, record](o.Entries),
		own:       newBounded[pair, trust](o.Entries),
	}
	return g
}

// Before says how long a login must wait before its password is looked at. When
// ok is false it must not be looked at: the client is told "not now". An address
// that is not known (the zero one) counts as one.
func (g *Guard) Before(client netip.Addr, user string) (wait time.Duration, ok bool) {
	if g.off(client) {
		return 0, true
	}
	now := time.Now()
	p := pair{Network(client), g.digest(user)}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.trusts(p, now) {
		return 0, true
	}
	if r := g.addresses.get(p.network); r != nil {
		r.fade(now, g.o.HalfLife)
		if delay := g.delay(r.failures, g.o.Free, g.o.MaxDelay); delay > 0 {
			start := now
			if r.next.After(now) {
				start = r.next
			}
			if wait = start.Sub(now); wait > g.o.MaxWait {
				return 0, false
			}
			// The tries of an address stand in line, however many connections
			// it has.
			r.next = start.Add(delay)
		}
	}
	if r := g.users.get(p.user); r != nil {
		r.fade(now, g.o.HalfLife)
		wait = max(wait, g.delay(r.failures, g.o.Free/2, g.o.MaxUserDelay))
	}
	return wait, true
}

// Succeeded notes that a user has logged in. It takes nothing back: somebody who
// has one account could guess at others in between.
func (g *Guard) Succeeded(client netip.Addr, user string) {
	if g.off(client) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	*g.own.at(pair{Network(client), g.digest(user)}) = trust{login: time.Now()}
}

// Failed notes a wrong login. An empty user stands for a login that was wrong
// whoever it was for; only the address is held to it. An empty password is not
// compared with earlier ones: each time counts. Logins that could not be checked
// are no failures.
func (g *Guard) Failed(client netip.Addr, user, password string) {
	if g.off(client) {
		return
	}
	now := time.Now()
	p := pair{Network(client), g.digest(user)}
	tried := digest(0)
	if password != "" {
		tried = g.digest(user + "\x00" + password)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if counted := g.addresses.at(p.network).count(tried, now, g.o.HalfLife); counted {
		r := g.addresses.get(p.network)
		if next := now.Add(g.delay(r.failures, g.o.Free, g.o.MaxDelay)); next.After(r.next) {
			r.next = next
		}
		if t := g.own.get(p); t != nil {
			if t.failures++; t.failures >= trustedFailures {
				g.own.forget(p)
			}
		}
	}
	if user != "" {
		g.users.at(p.user).count(tried, now, g.o.HalfLife)
	}
}

// off reports whether a client is not the guard's business.
func (g *Guard) off(client netip.Addr) bool { return g.o.Free < 0 || Contains(g.o.Exempt, client) }

// trusts reports whether an address is a user's own. The caller holds mu.
func (g *Guard) trusts(p pair, now time.Time) bool {
	t := g.own.get(p)
	if t == nil {
		return false
	}
	if now.Sub(t.login) > g.o.Trust {
		g.own.forget(p)
		return false
	}
	return true
}

// delay is what so many failures cost.
func (g *Guard) delay(failures float64, free int, most time.Duration) time.Duration {
	// Half a failure is forgiven, so that a few seconds do not decide.
	over := int(math.Floor(failures+0.5)) - free
	if over <= 0 {
		return 0
	}
	return min(g.o.Delay<<min(over-1, 20), most)
}

// fade forgets failures with time.
func (r *record) fade(now time.Time, half time.Duration) {
	if passed := now.Sub(r.at); passed > 0 {
		r.failures *= math.Exp2(-float64(passed) / float64(half))
		r.at = now
	}
}

// count adds a failure, unless the same was tried before; zero is never the same.
func (r *record) count(tried digest, now time.Time, half time.Duration) bool {
	r.fade(now, half)
	r.failures++
	if tried == 0 {
		return true
	}
	if slices.Contains(r.tried[:], tried) {
		r.failures--
		return false
	}
	r.tried[r.i%len(r.tried)] = tried
	r.i++
	return true
}

func (g *Guard) digest(text string) digest { return digest(maphash.String(g.seed, text)) }

// Remembered returns how many addresses, users and pairs of both are remembered.
func (g *Guard) Remembered() (addresses, users, pairs int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.addresses.len(), g.users.len(), g.own.len()
}
