package backend

import (
	"iter"
	"slices"
	"sort"
)

// View is a mailbox at one moment: its attributes and its messages in the
// order of their UIDs. It never changes; the store shares most of it between
// the views of one mailbox, so that keeping one costs little.
type View struct {
	Mailbox  Mailbox
	Messages Messages
}

// chunkLen is how many messages share one block of a Messages list: a change
// copies the blocks it touches and the list of blocks.
const chunkLen = 256

// Messages is an immutable list of messages, ascending by UID. The zero value
// is empty. Methods that change it return a new list which shares the
// unchanged blocks with the old one, so that two lists can be compared block by
// block (Diff). Safe for concurrent reading.
type Messages struct {
	chunks []*chunk
	starts []int // starts[i] is the position of chunk i's first message
	n      int
}

type chunk struct {
	messages []Message
	summary
}

// summary is what a chunk's messages come to.
type summary struct {
	seen     int      // how many messages from the first have \Seen without a gap
	keywords []string // that messages have, sorted
}

func newChunk(messages []Message) *chunk {
	c := &chunk{messages: messages}
	c.summarise(0)
	return c
}

// summarise takes in the messages from a position on; what is before it is in
// the summary already.
func (c *chunk) summarise(from int) {
	var last, more []string
	for i := from; i < len(c.messages); i++ {
		flags := c.messages[i].Flags
		if c.seen == i && slices.Contains(flags, FlagSeen) {
			c.seen++
		}
		if len(flags) == 0 || slices.Equal(flags, last) {
			continue
		}
		last = flags
		for _, f := range flags {
			if f != "" && f[0] != '\\' {
				more = append(more, f)
			}
		}
	}
	c.keywords = union(c.keywords, more)
}

// union returns what two lists have, sorted, each once. It changes neither.
func union(sorted, more []string) []string {
	if len(more) == 0 {
		return sorted
	}
	all := slices.Concat(sorted, more)
	slices.Sort(all)
	return slices.Compact(all)
}

func fromChunks(chunks []*chunk) Messages {
	m := Messages{chunks: chunks, starts: make([]int, len(chunks))}
	for i, c := range chunks {
		m.starts[i] = m.n
		m.n += len(c.messages)
	}
	return m
}

// NewMessages makes a list of messages, which must ascend by UID. The list
// keeps the slice.
func NewMessages(messages []Message) Messages {
	var chunks []*chunk
	for part := range slices.Chunk(messages, chunkLen) {
		chunks = append(chunks, newChunk(part[:len(part):len(part)]))
	}
	return fromChunks(chunks)
}

// Len returns the number of messages.
func (m Messages) Len() int { return m.n }

// At returns the message at position i, counted from zero (an IMAP sequence
// number less one). It panics when i is out of range.
func (m Messages) At(i int) *Message {
	c := sort.Search(len(m.starts), func(k int) bool { return m.starts[k] > i }) - 1
	return &m.chunks[c].messages[i-m.starts[c]]
}

// FirstUnseen returns the position of the first message without \Seen, and
// whether there is one (RFC 3501 §7.1 UNSEEN wants it). It looks at one number
// for each 256 messages, not at the messages.
func (m Messages) FirstUnseen() (int, bool) {
	for i, c := range m.chunks {
		if c.seen < len(c.messages) {
			return m.starts[i] + c.seen, true
		}
	}
	return 0, false
}

// Keywords returns the keywords, flags other than the system's, that messages
// have, sorted by their bytes, each spelling once. It looks at one list for each
// 256 messages, not at the messages. The caller must not change it.
func (m Messages) Keywords() []string {
	var first, more []string
	for _, c := range m.chunks {
		if len(first) == 0 {
			first = c.keywords
		} else if !slices.Equal(first, c.keywords) {
			more = append(more, c.keywords...)
		}
	}
	return union(first, more)
}

// Find returns the position of the message with that UID, or of the first
// one above it, and whether it is there.
func (m Messages) Find(uid UID) (int, bool) {
	c := sort.Search(len(m.chunks), func(k int) bool {
		ms := m.chunks[k].messages
		return ms[len(ms)-1].UID >= uid
	})
	if c == len(m.chunks) {
		return m.n, false
	}
	ms := m.chunks[c].messages
	i := sort.Search(len(ms), func(k int) bool { return ms[k].UID >= uid })
	return m.starts[c] + i, ms[i].UID == uid
}

// Select returns the messages of these UIDs, which must ascend. UIDs that are
// not there are passed over. The messages are the list's own: read only.
func (m Messages) Select(uids []UID) []*Message {
	found := make([]*Message, 0, len(uids))
	c, i := 0, 0 // the chunk and the place in it that come next
	for _, uid := range uids {
		if n := len(m.chunks); c < n && m.chunks[c].top() < uid {
			if c, i = c+1, 0; c < n && m.chunks[c].top() < uid {
				c += sort.Search(n-c, func(k int) bool { return m.chunks[c+k].top() >= uid })
			}
		}
		if c == len(m.chunks) {
			break
		}
		ms := m.chunks[c].messages
		if ms[i].UID < uid {
			i += sort.Search(len(ms)-i, func(k int) bool { return ms[i+k].UID >= uid })
		}
		if ms[i].UID != uid {
			continue
		}
		found = append(found, &ms[i])
		if i++; i == len(ms) {
			c, i = c+1, 0
		}
	}
	return found
}

func (c *chunk) top() UID { return c.messages[len(c.messages)-1].UID }

// All yields position and message, ascending.
func (m Messages) All() iter.Seq2[int, *Message] {
	return func(yield func(int, *Message) bool) {
		for k, c := range m.chunks {
			for i := range c.messages {
				if !yield(m.starts[k]+i, &c.messages[i]) {
					return
				}
			}
		}
	}
}

// Append returns the list with more messages at its end; their UIDs must be
// above all others.
func (m Messages) Append(more ...Message) Messages {
	if len(more) == 0 {
		return m
	}
	chunks := slices.Clone(m.chunks)
	if last := len(chunks) - 1; last >= 0 && len(chunks[last].messages) < chunkLen {
		old := chunks[last].messages
		take := min(chunkLen-len(old), len(more))
		joined := make([]Message, 0, len(old)+take)
		joined = append(append(joined, old...), more[:take]...)
		c := &chunk{messages: joined, summary: chunks[last].summary}
		c.summarise(len(old))
		chunks[last] = c
		more = more[take:]
	}
	for part := range slices.Chunk(more, chunkLen) {
		chunks = append(chunks, newChunk(slices.Clone(part)))
	}
	return fromChunks(chunks)
}

// Update returns the list with the given messages, ascending by UID, put in
// the place of those with the same UIDs. UIDs that are not there are passed
// over.
func (m Messages) Update(changed []Message) Messages {
	chunks := slices.Clone(m.chunks)
	for k, c := range chunks {
		if len(changed) == 0 {
			break
		}
		top := c.messages[len(c.messages)-1].UID
		n := sort.Search(len(changed), func(i int) bool { return changed[i].UID > top })
		if n == 0 {
			continue
		}
		var ms []Message
		for _, msg := range changed[:n] {
			i := sort.Search(len(c.messages), func(i int) bool { return c.messages[i].UID >= msg.UID })
			if c.messages[i].UID != msg.UID {
				continue
			}
			if ms == nil {
				ms = slices.Clone(c.messages)
			}
			ms[i] = msg
		}
		if ms != nil {
			chunks[k] = newChunk(ms)
		}
		changed = changed[n:]
	}
	return fromChunks(chunks)
}

// Remove returns the list without the messages of these UIDs, which must
// ascend.
func (m Messages) Remove(uids []UID) Messages {
	if len(uids) == 0 {
		return m
	}
	chunks := make([]*chunk, 0, len(m.chunks))
	for _, c := range m.chunks {
		top := c.messages[len(c.messages)-1].UID
		n := sort.Search(len(uids), func(i int) bool { return uids[i] > top })
		if n == 0 {
			chunks = append(chunks, c)
			continue
		}
		gone := uids[:n]
		uids = uids[n:]
		var kept []Message
		for i := range c.messages {
			if _, found := slices.BinarySearch(gone, c.messages[i].UID); !found {
				kept = append(kept, c.messages[i])
			}
		}
		if len(kept) == len(c.messages) {
			chunks = append(chunks, c)
		} else if len(kept) > 0 {
			chunks = append(chunks, newChunk(kept))
		}
	}
	return fromChunks(chunks)
}

// Delta is what changed from one list to another of the same mailbox.
type Delta struct {
	Removed []UID     // in the old list only, ascending
	Changed []Message // in both, with another ModSeq, as they are in the new list
	Added   []Message // in the new list only
}

// Diff compares an older list of the mailbox with a newer one. Blocks that
// both lists share cost nothing.
func Diff(from, to Messages) Delta {
	shared := make(map[*chunk]bool, len(to.chunks))
	for _, c := range to.chunks {
		shared[c] = true
	}
	var olds, news []*Message
	for _, c := range from.chunks {
		if shared[c] {
			shared[c] = false
			continue
		}
		for i := range c.messages {
			olds = append(olds, &c.messages[i])
		}
	}
	for _, c := range to.chunks {
		if !shared[c] {
			continue
		}
		for i := range c.messages {
			news = append(news, &c.messages[i])
		}
	}
	return merge(olds, news)
}

// merge compares two ascending runs of messages.
func merge(olds, news []*Message) Delta {
	var d Delta
	for len(olds) > 0 || len(news) > 0 {
		switch {
		case len(news) == 0 || len(olds) > 0 && olds[0].UID < news[0].UID:
			d.Removed = append(d.Removed, olds[0].UID)
			olds = olds[1:]
		case len(olds) == 0 || news[0].UID < olds[0].UID:
			d.Added = append(d.Added, *news[0])
			news = news[1:]
		default:
			if olds[0].ModSeq != news[0].ModSeq {
				d.Changed = append(d.Changed, *news[0])
			}
			olds, news = olds[1:], news[1:]
		}
	}
	return d
}
