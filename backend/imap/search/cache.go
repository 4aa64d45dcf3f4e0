package search

import (
	"hash/maphash"
	"strings"
	"sync"
	"time"

	"switchyard/backend"
	"switchyard/internal/message"
)

// facts is what SORT, THREAD and the commonest keys of SEARCH need of a
// message's envelope, made small. Read only: they are shared. What is only
// compared for equality is hashed with a secret seed, so that nobody can choose
// strings that collide.
type facts struct {
	sent    int64  // Unix seconds of the Date field; when dated
	day     int32  // the date as it is written, in days since 1970
	dated   bool   // there is a Date field that can be read
	reply   bool   // the subject is that of a reply or a forward
	subject uint64 // of the base subject, zero for an empty one
	id      uint64 // zero: no Message-ID
	refs    []uint64

	// Texts in the form that they are compared in, unless they are too long
	// to keep: then long is set.
	long  bool
	title string // the subject
	base  string // the base subject, mostly a part of title
	from  string // the From addresses
}

// maxText bounds each text of facts, in bytes.
const maxText = 500

// maxRefs bounds the references of one message that THREAD looks at: the last
// ones, which are its nearest ancestors.
const maxRefs = 200

// factsCost is what one entry of a Cache costs beside its references and
// texts, in bytes: key, value and the map's own share.
const factsCost = 200

func (f *facts) cost() int64 {
	return int64(factsCost + 8*len(f.refs) + 2*len(f.title) + len(f.from))
}

// DefaultCacheSize is the size of a Cache in bytes when none is given: room
// for about 80,000 messages.
const DefaultCacheSize = 32 << 20

// Cache remembers what was computed of messages for as long as there is room.
// A message's content never changes, so that entries are never wrong. It is
// safe for concurrent use; the zero value is not ready.
type Cache struct {
	seed maphash.Seed
	half int64 // bytes of one generation

	mu    sync.RWMutex
	cost  int64                   // of young
	young map[backend.GUID]*facts // filled now
	old   map[backend.GUID]*facts // what young was before; dropped when young is full
}

// NewCache makes a cache of about size bytes; zero means DefaultCacheSize.
func NewCache(size int64) *Cache {
	if size == 0 {
		size = DefaultCacheSize
	}
	return &Cache{seed: maphash.MakeSeed(), half: size / 2, young: make(map[backend.GUID]*facts)}
}

func (c *Cache) get(id backend.GUID) (*facts, bool) {
	c.mu.RLock()
	f, ok := c.young[id]
	if !ok {
		f, ok = c.old[id]
		c.mu.RUnlock()
		if ok {
			c.put(id, f) // it is still of use
		}
		return f, ok
	}
	c.mu.RUnlock()
	return f, true
}

func (c *Cache) put(id backend.GUID, f *facts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.young[id]; there {
		return
	}
	cost := f.cost()
	if c.cost+cost > c.half {
		c.old, c.young, c.cost = c.young, make(map[backend.GUID]*facts, len(c.young)), 0
	}
	c.young[id] = f
	c.cost += cost
}

// hash never returns zero.
func (c *Cache) hash(s string) uint64 {
	return max(maphash.String(c.seed, s), 1)
}

// facts returns what is known of a message, from the cache or from its
// structure.
func (m *Mailbox) facts(c *candidate) (*facts, error) {
	if f, ok := m.Cache.get(c.GUID); ok {
		return f, nil
	}
	e, err := c.envelope()
	if err != nil {
		return nil, err
	}
	f := m.Cache.digest(e)
	m.Cache.put(c.GUID, f)
	return f, nil
}

// digest makes facts of an envelope.
func (c *Cache) digest(e *message.Envelope) *facts {
	f := &facts{}
	if d, ok := message.ParseDate(e.Date); ok {
		f.sent, f.day, f.dated = d.Moment.Unix(), unixDay(d.Day), true
	}
	base, reply := message.BaseSubject(e.Subject)
	f.reply = reply
	f.texts(e, message.Fold(base))
	if base != "" {
		f.subject = c.hash(message.Fold(base))
	}
	for id := range message.MessageIDs(e.MessageID) {
		f.id = c.hash(id)
		break
	}
	for id := range message.MessageIDs(e.References) {
		f.refs = append(f.refs, c.hash(id))
	}
	if len(f.refs) > maxRefs {
		f.refs = append([]uint64(nil), f.refs[len(f.refs)-maxRefs:]...)
	}
	if len(f.refs) == 0 { // RFC 5256 §3: only the first id of In-Reply-To
		for id := range message.MessageIDs(e.InReplyTo) {
			f.refs = []uint64{c.hash(id)}
			break
		}
	}
	return f
}

// texts keeps the texts.
func (f *facts) texts(e *message.Envelope, base string) {
	title, from := message.Fold(message.DecodeHeader(e.Subject)), message.Fold(addressText(e.From))
	if len(title) > maxText || len(base) > maxText || len(from) > maxText {
		f.long = true
		return
	}
	f.title, f.base, f.from = title, base, from
	if at := strings.Index(title, base); at >= 0 {
		f.base = title[at : at+len(base)] // one memory for both
	}
}

// unixDay counts the days since 1970 up to t's day in UTC.
func unixDay(t time.Time) int32 {
	const day = 24 * 60 * 60
	s := t.Unix()
	if s < 0 {
		return int32((s - day + 1) / day)
	}
	return int32(s / day)
}
