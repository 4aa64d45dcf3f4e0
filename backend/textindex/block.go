package textindex

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"sort"

	"switchyard/backend"
)

// stride is how many words of a block share one entry of its table: to find a
// word's number from its place, and its list of messages, that many are passed
// over at most.
const stride = 16

// builder collects the words of messages for one block.
type builder struct {
	guids []backend.GUID
	over  []uint32            // messages whose words are not all there, ascending
	lists map[string][]uint32 // by word: message<<2 | where, ascending
	size  int                 // of the lists, about
}

func newBuilder() *builder { return &builder{lists: make(map[string][]uint32)} }

// add takes in a message.
func (b *builder) add(guid backend.GUID, w *words) {
	n := uint32(len(b.guids))
	b.guids = append(b.guids, guid)
	if w.over {
		b.over = append(b.over, n)
	}
	for word, at := range w.all {
		list, there := b.lists[word]
		if !there {
			b.size += len(word) + 1
		}
		b.lists[word] = append(list, n<<2|uint32(at))
		b.size += 2
	}
}

// merge takes in the messages of a block that are still live.
func (b *builder) merge(old *block, live func(backend.GUID) bool) error {
	to := make([]int64, len(old.guids)) // new numbers; less than zero: left out
	for i, guid := range old.guids {
		if to[i] = -1; live(guid) {
			to[i] = int64(len(b.guids))
			b.guids = append(b.guids, guid)
			if _, over := slices.BinarySearch(old.over, uint32(i)); over {
				b.over = append(b.over, uint32(to[i]))
			}
		}
	}
	return old.each(func(word []byte, message uint32, at where) {
		if to[message] < 0 {
			return
		}
		list, there := b.lists[string(word)]
		if !there {
			b.size += len(word) + 1
		}
		b.lists[string(word)] = append(list, uint32(to[message])<<2|uint32(at))
		b.size += 2
	})
}

// encode writes the block: the number of words, the length of the text of all
// words, each with a line feed behind it; the table, of the places in the text
// and in the lists of every stride-th word; and the lists, each with its length
// before it.
func (b *builder) encode() []byte {
	all := make([]string, 0, len(b.lists))
	for word := range b.lists {
		all = append(all, word)
	}
	slices.Sort(all)
	var text, table, lists, list []byte
	for i, word := range all {
		if i%stride == 0 {
			table = binary.BigEndian.AppendUint32(table, uint32(len(text)))
			table = binary.BigEndian.AppendUint32(table, uint32(len(lists)))
		}
		text = append(append(text, word...), '\n')
		list = list[:0]
		last := uint32(0)
		for _, v := range b.lists[word] {
			list = binary.AppendUvarint(list, uint64(v>>2-last)<<2|uint64(v&3))
			last = v >> 2
		}
		lists = append(binary.AppendUvarint(lists, uint64(len(list))), list...)
	}
	out := binary.BigEndian.AppendUint32(nil, uint32(len(all)))
	out = binary.BigEndian.AppendUint32(out, uint32(len(text)))
	return slices.Concat(out, text, table, lists)
}

// head writes what is known of the block without its words: the messages, and
// those of which words are missing.
func (b *builder) head() []byte {
	out := binary.AppendUvarint(nil, uint64(len(b.guids)))
	for _, guid := range b.guids {
		out = append(out, guid[:]...)
	}
	for _, n := range b.over {
		out = binary.AppendUvarint(out, uint64(n))
	}
	return out
}

var errDamaged = errors.New("damaged block of the text index")

// readHead reads what head wrote.
func readHead(b []byte) (guids []backend.GUID, over []uint32, err error) {
	n, used := binary.Uvarint(b)
	if used <= 0 || n > uint64(len(b)-used)/16 {
		return nil, nil, errDamaged
	}
	b = b[used:]
	guids = make([]backend.GUID, n)
	for i := range guids {
		copy(guids[i][:], b[16*i:])
	}
	for b = b[16*n:]; len(b) > 0; {
		v, used := binary.Uvarint(b)
		if used <= 0 || v >= n {
			return nil, nil, errDamaged
		}
		over = append(over, uint32(v))
		b = b[used:]
	}
	return guids, over, nil
}

// block is a block to be searched.
type block struct {
	guids []backend.GUID
	over  []uint32
	count int    // words
	text  []byte // each with a line feed
	table []byte
	lists []byte
}

// readBlock takes what head and encode wrote. It keeps parts of words.
func readBlock(guids []backend.GUID, over []uint32, words []byte) (*block, error) {
	if len(words) < 8 {
		return nil, errDamaged
	}
	b := &block{guids: guids, over: over, count: int(binary.BigEndian.Uint32(words))}
	length := int(binary.BigEndian.Uint32(words[4:]))
	entries := 8 * ((b.count + stride - 1) / stride)
	if words = words[8:]; length > len(words) || entries > len(words)-length {
		return nil, errDamaged
	}
	b.text, b.table, b.lists = words[:length], words[length:length+entries], words[length+entries:]
	if length > 0 && b.text[length-1] != '\n' {
		return nil, errDamaged
	}
	return b, nil
}

// entry reads the table: where the words and lists of a stride begin.
func (b *block) entry(i int) (text, list int) {
	return int(binary.BigEndian.Uint32(b.table[8*i:])), int(binary.BigEndian.Uint32(b.table[8*i+4:]))
}

// list finds the list of the word that begins at a place in the text.
func (b *block) list(place int) ([]byte, error) {
	i := sort.Search(len(b.table)/8, func(i int) bool { text, _ := b.entry(i); return text > place }) - 1
	if i < 0 {
		return nil, errDamaged
	}
	text, at := b.entry(i)
	if text > place || at > len(b.lists) {
		return nil, errDamaged
	}
	rest := b.lists[at:]
	for range bytes.Count(b.text[text:place], []byte{'\n'}) {
		_, after, err := cutList(rest)
		if err != nil {
			return nil, err
		}
		rest = after
	}
	list, _, err := cutList(rest)
	return list, err
}

func cutList(b []byte) (list, rest []byte, err error) {
	n, used := binary.Uvarint(b)
	if used <= 0 || n > uint64(len(b)-used) {
		return nil, nil, errDamaged
	}
	return b[used : used+int(n)], b[used+int(n):], nil
}

// eachIn calls each for the messages of a list.
func (b *block) eachIn(list []byte, each func(message uint32, at where)) error {
	last := uint64(0)
	for len(list) > 0 {
		v, used := binary.Uvarint(list)
		if used <= 0 {
			return errDamaged
		}
		if last += v >> 2; last >= uint64(len(b.guids)) {
			return errDamaged
		}
		each(uint32(last), where(v&3))
		list = list[used:]
	}
	return nil
}

// each calls each for every word of every message, in the order of the words.
func (b *block) each(each func(word []byte, message uint32, at where)) error {
	text, lists := b.text, b.lists
	for len(text) > 0 {
		word, rest, _ := bytes.Cut(text, []byte{'\n'})
		list, after, err := cutList(lists)
		if err != nil {
			return err
		}
		if err := b.eachIn(list, func(m uint32, at where) { each(word, m, at) }); err != nil {
			return err
		}
		text, lists = rest, after
	}
	return nil
}

// find says for each message where the needle may be: a message has it only in
// texts of which all pieces are.
func (b *block) find(n needle) ([]where, error) {
	found := make([]where, len(b.guids))
	for i := range found {
		found[i] = inHeader | inBody
	}
	for i := range n.pieces {
		hits := make([]where, len(b.guids))
		if err := b.findPiece(&n.pieces[i], hits); err != nil {
			return nil, err
		}
		for m := range found {
			found[m] &= hits[m]
		}
	}
	return found, nil
}

// findPiece notes the messages that have a word in which the piece lies.
func (b *block) findPiece(p *piece, hits []where) error {
	for at := 0; ; {
		next := bytes.Index(b.text[at:], p.text)
		if next < 0 {
			return nil
		}
		at += next
		start := bytes.LastIndexByte(b.text[:at], '\n') + 1
		end := at + bytes.IndexByte(b.text[at:], '\n')
		if p.in(b.text[start:end], at-start) {
			list, err := b.list(start)
			if err != nil {
				return err
			}
			if err := b.eachIn(list, func(m uint32, at where) { hits[m] |= at }); err != nil {
				return err
			}
		}
		if at = end + 1; at >= len(b.text) {
			return nil
		}
	}
}
