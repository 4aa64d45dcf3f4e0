package cache

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"time"

	"switchyard/lookup"
)

// maxLogins is how many verified logins of an account are remembered: one for
// each password, protocol and client.
const maxLogins = 8

// mac stands for a password in memory: HMAC-SHA256 with the process's key.
type mac [sha256.Size]byte

func (m mac) equal(other mac) bool { return hmac.Equal(m[:], other[:]) }

// login is a password that the directory said yes to.
type login struct {
	mac        mac
	ahead      instant // from here on a use of it asks again in the background
	until      instant // end of PasswordTTL
	staleUntil instant // end of StaleLogin
}

// entry is what is known of a name. It is not changed once it is in a memory.
// What a hit reads comes first: two lines of the processor's cache.
type entry struct {
	era     uint32 // the cache's, when this was learnt; in a later one all of it is old
	found   bool
	expires instant
	ahead   instant // from here on a use of it asks again in the background
	account lookup.Account

	cost       int64   // bytes, set by the memory that it is in
	learnt     instant // when the directory last said what the entry says of the account
	staleUntil instant
	logins     []login // newest first; empty unless found

	absentUntil instant // set only when not found

	rejected      mac
	rejectedUntil instant

	backOffUntil instant
	backOffCause error

	round uint64 // of the newest question of Fresh that was found or absent
}

// hit is an answer from memory.
type hit struct {
	account *lookup.Account // nil with an error; not to be written to
	err     error
	ahead   bool // ask again in the background
}

func (h hit) answer() (lookup.Account, error) {
	if h.account == nil {
		return lookup.Account{}, h.err
	}
	return *h.account, nil
}

// lookup returns the answer to a Lookup at now, if it is known within its TTL.
func (e *entry) lookup(now instant, era uint32) (hit, bool) {
	switch {
	case e == nil || e.era != era:
	case e.found && now.Before(e.expires):
		return hit{account: &e.account, ahead: !now.Before(e.ahead)}, true
	case now.Before(e.absentUntil):
		return hit{err: lookup.ErrAbsent}, true
	}
	return hit{}, false
}

// check returns the answer to a Check at now, if it is known within its TTL.
// That a name is absent is not used: a quick no for the names that nobody has
// would tell them from the others.
func (e *entry) check(m mac, now instant, era uint32) (hit, bool) {
	if e == nil || e.era != era {
		return hit{}, false
	}
	if e.found && now.Before(e.expires) {
		for _, l := range e.logins {
			if l.mac.equal(m) && now.Before(l.until) {
				old := !now.Before(l.ahead) || !now.Before(e.ahead)
				return hit{account: &e.account, ahead: old && !now.Before(e.backOffUntil)}, true
			}
		}
	}
	if now.Before(e.rejectedUntil) && e.rejected.equal(m) {
		return hit{err: lookup.ErrRejected}, true
	}
	return hit{}, false
}

// stale returns the account when it will do for a question that the directory
// cannot answer now.
func (e *entry) stale(q *question, now instant) (lookup.Account, bool) {
	if e == nil || q.fresh || !e.found || !now.Before(e.staleUntil) {
		return lookup.Account{}, false
	}
	if !q.check {
		return e.account, true
	}
	for _, l := range e.logins {
		if l.mac.equal(q.mac) {
			return e.account, now.Before(l.staleUntil)
		}
	}
	return lookup.Account{}, false
}

// mac hashes all that the directory's answer may depend on, each part with its
// length in front.
func (c *Cache) mac(cred lookup.Credentials) mac {
	h := hmac.New(sha256.New, c.key[:])
	client := ""
	if !c.opts.AnyClient {
		client = cred.Client.String()
	}
	for _, part := range []string{cred.Name, cred.Protocol, client, cred.Password} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write([]byte(part))
	}
	var m mac
	h.Sum(m[:0])
	return m
}

// remember puts the answer to a question into the memory, unless the name was
// forgotten since it was asked. It reports whether the answer says that who is
// logged in may not be any more.
func (c *Cache) remember(q *question, account lookup.Account, err error) (sessions bool) {
	if len(q.name) > maxKey {
		return false
	}
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if q.epoch != c.epoch(q.name).Load() {
		return false
	}
	e, old := c.copyOf(q.name)
	e.backOffUntil, e.backOffCause = 0, nil
	switch lookup.AnswerOf(err) {
	case lookup.AnswerFound:
		sessions = old.found && bearsOnSessions(&old.account, &account)
		e.found, e.account, e.absentUntil, e.learnt = true, account, 0, now
		ttl := c.jitter(c.opts.TTL)
		e.expires, e.ahead = now.Add(ttl), c.ahead(now, ttl)
		e.staleUntil = now.Add(c.opts.TTL + c.opts.StaleTTL)
		if q.check {
			c.rememberLogin(e, q.mac, now)
		}
	case lookup.AnswerAbsent:
		sessions = old.found
		*e = entry{era: e.era, absentUntil: now.Add(c.jitter(c.opts.NegativeTTL)), learnt: now, round: e.round}
	case lookup.AnswerRejected:
		// A password that was right is wrong: it was changed.
		sessions = slices.ContainsFunc(e.logins, func(l login) bool { return l.mac.equal(q.mac) })
		e.logins = without(e.logins, q.mac)
		e.rejected, e.rejectedUntil = q.mac, now.Add(c.jitter(c.opts.NegativeTTL))
	default:
		e.backOffUntil, e.backOffCause = now.Add(c.opts.BackOff), err
		e.ahead = max(e.ahead, e.backOffUntil)
		if q.fresh {
			e.expires = now
		}
	}
	if q.fresh && e.backOffCause == nil {
		e.round = q.round
	}
	c.replace(q.name, e)
	return sessions
}

// copyOf returns a copy of what is known of a name, in the cache's era, and
// what it is a copy of. The caller holds mu.
func (c *Cache) copyOf(name string) (e, old *entry) {
	old = &entry{}
	if known, ok := c.known.peek(name); ok {
		old = known
	} else if unknown, ok := c.unknown.peek(name); ok {
		old = unknown
	}
	e = &entry{}
	*e = *old
	if era := c.era.Load(); e.era != era {
		e.era = era
		e.expire()
		e.logins = slices.Clone(e.logins)
		for i := range e.logins {
			e.logins[i].until = 0
		}
	}
	return e, old
}

// replace puts an entry into the memory that it belongs to. The caller holds
// mu.
func (c *Cache) replace(name string, e *entry) {
	if e.found {
		c.known.put(name, e)
		c.unknown.remove(name)
	} else {
		c.unknown.put(name, e)
		c.known.remove(name)
	}
}

// expire makes what the entry says of the account old, and forgets what it
// says of nobody's having it.
func (e *entry) expire() {
	e.expires, e.absentUntil, e.rejected, e.rejectedUntil = 0, 0, mac{}, 0
}

// bearsOnSessions reports whether a session that was right for the old account
// may be wrong for the new one.
func bearsOnSessions(old, now *lookup.Account) bool {
	return old.Home != now.Home || old.Generation != now.Generation || old.Status.MayLogin() && !now.Status.MayLogin()
}

func (c *Cache) rememberLogin(e *entry, m mac, now instant) {
	if e.rejected.equal(m) {
		e.rejected, e.rejectedUntil = mac{}, 0
	}
	ttl := c.jitter(c.opts.PasswordTTL)
	fresh := login{mac: m, until: now.Add(ttl), ahead: c.ahead(now, ttl), staleUntil: now.Add(c.opts.StaleLogin)}
	logins := []login{fresh}
	for _, l := range without(e.logins, m) {
		if len(logins) < maxLogins && (now.Before(l.until) || now.Before(l.staleUntil)) {
			logins = append(logins, l)
		}
	}
	e.logins = logins
}

// without returns the logins but m's, in a new slice.
func without(logins []login, m mac) []login {
	return slices.DeleteFunc(slices.Clone(logins), func(l login) bool { return l.mac.equal(m) })
}

// jitter shortens d by chance.
func (c *Cache) jitter(d time.Duration) time.Duration {
	return d - time.Duration(rand.Float64()*c.opts.Jitter*float64(d))
}

// ahead is when the use of an answer of now asks again though it lives for ttl
// yet.
func (c *Cache) ahead(now instant, ttl time.Duration) instant {
	return now.Add(ttl - time.Duration(c.opts.RefreshAhead*float64(ttl)))
}
