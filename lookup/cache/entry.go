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
	until      time.Time // end of PasswordTTL
	staleUntil time.Time // end of StaleLogin
}

// entry is what is known of a name. It is not changed once it is in a memory.
type entry struct {
	found      bool
	account    lookup.Account
	expires    time.Time
	staleUntil time.Time
	logins     []login // newest first; empty unless found

	absentUntil time.Time // set only when not found

	rejected      mac
	rejectedUntil time.Time

	backOffUntil time.Time
	backOffCause error

	round uint64 // of the newest question of Fresh that was found or absent
}

// lookup returns the answer to a Lookup at now, if it is known within its TTL.
func (e *entry) lookup(now time.Time) (account lookup.Account, err error, ok bool) {
	switch {
	case e == nil:
	case e.found && now.Before(e.expires):
		return e.account, nil, true
	case now.Before(e.absentUntil):
		return lookup.Account{}, lookup.ErrAbsent, true
	}
	return lookup.Account{}, nil, false
}

// check returns the answer to a Check at now, if it is known within its TTL.
// That a name is absent is not used: a quick no for the names that nobody has
// would tell them from the others.
func (e *entry) check(m mac, now time.Time) (account lookup.Account, err error, ok bool) {
	if e == nil {
		return lookup.Account{}, nil, false
	}
	if e.found && now.Before(e.expires) {
		for _, l := range e.logins {
			if l.mac.equal(m) && now.Before(l.until) {
				return e.account, nil, true
			}
		}
	}
	if now.Before(e.rejectedUntil) && e.rejected.equal(m) {
		return lookup.Account{}, lookup.ErrRejected, true
	}
	return lookup.Account{}, nil, false
}

// stale returns the account when it will do for a question that the directory
// cannot answer now.
func (e *entry) stale(q *question, now time.Time) (lookup.Account, bool) {
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
// forgotten since it was asked.
func (c *Cache) remember(q *question, account lookup.Account, err error) {
	if len(q.name) > maxKey {
		return
	}
	now := c.opts.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if q.epoch != c.epoch(q.name).Load() {
		return
	}
	e := &entry{}
	if old, ok := c.known.Peek(q.name); ok {
		*e = *old
	} else if old, ok := c.unknown.Peek(q.name); ok {
		*e = *old
	}
	e.backOffUntil, e.backOffCause = time.Time{}, nil
	switch lookup.AnswerOf(err) {
	case lookup.AnswerFound:
		e.found, e.account, e.absentUntil = true, account, time.Time{}
		e.expires = now.Add(c.jitter(c.opts.TTL))
		e.staleUntil = now.Add(c.opts.TTL + c.opts.StaleTTL)
		if q.check {
			c.rememberLogin(e, q.mac, now)
		}
	case lookup.AnswerAbsent:
		*e = entry{absentUntil: now.Add(c.jitter(c.opts.NegativeTTL)), round: e.round}
	case lookup.AnswerRejected:
		e.logins = without(e.logins, q.mac)
		e.rejected, e.rejectedUntil = q.mac, now.Add(c.jitter(c.opts.NegativeTTL))
	default:
		e.backOffUntil, e.backOffCause = now.Add(c.opts.BackOff), err
		if q.fresh {
			e.expires = now
		}
	}
	if q.fresh && e.backOffCause == nil {
		e.round = q.round
	}
	if e.found {
		c.known.Add(q.name, e)
		c.unknown.Remove(q.name)
	} else {
		c.unknown.Add(q.name, e)
		c.known.Remove(q.name)
	}
}

func (c *Cache) rememberLogin(e *entry, m mac, now time.Time) {
	if e.rejected.equal(m) {
		e.rejected, e.rejectedUntil = mac{}, time.Time{}
	}
	fresh := login{mac: m, until: now.Add(c.jitter(c.opts.PasswordTTL)), staleUntil: now.Add(c.opts.StaleLogin)}
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
