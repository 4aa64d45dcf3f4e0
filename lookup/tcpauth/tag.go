package tcpauth

import (
	"bytes"
	"fmt"
	"hash/crc32"

	"switchyard/lookup/internal/authent"
)

// A tagged request is a command with a tag in front of it, and so is each line
// of its answer, with a sum behind the tag:
//
//	#7f lookup anna@example.test
//	#7f aecf8fc9 +OK anna@example.test config 0 tohost="b1"
//
// The sum is the CRC-32C of the command as the server read it and of the
// answer's lines up to this one. So an answer is believed only by who asked
// that very command: however tags are mixed up or bytes garbled on the way, it
// does not reach another caller.

// maxTag is the longest tag. The characters are digits and lower-case letters.
const maxTag = 16

// sumLength is the length of a sum as it is written.
const sumLength = 8

// taggedOverhead is what a tag adds to a line of an answer.
const taggedOverhead = 1 + maxTag + 1 + sumLength + 1

// isTagged reports whether a line begins like a tagged one. No command of the
// old grammar does.
func isTagged(line []byte) bool { return len(line) > 0 && line[0] == '#' }

// cutTag takes the tag off a tagged line.
func cutTag(line []byte) (tag, rest []byte, ok bool) {
	tag, rest, found := bytes.Cut(line[1:], []byte{' '})
	if !found || len(tag) == 0 || len(tag) > maxTag {
		return nil, nil, false
	}
	for _, c := range tag {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z') {
			return nil, nil, false
		}
	}
	return tag, rest, true
}

// sum is a sum in the making.
type sum uint32

func sumOf(command []byte) sum { return sum(0).add(command) }

// add puts a line into the sum. The line end keeps ab, c and a, bc apart.
func (s sum) add(line []byte) sum {
	table := crc32.MakeTable(crc32.Castagnoli)
	v := crc32.Update(uint32(s), table, line)
	return sum(crc32.Update(v, table, []byte{'\n'}))
}

// appendTagged writes a line of an answer, without its line end.
func appendTagged(b []byte, tag []byte, s sum, line []byte) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '#')
	b = append(b, tag...)
	b = append(b, ' ')
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, hex[s>>shift&15])
	}
	b = append(b, ' ')
	return append(b, line...)
}

// parseTagged reads a line of an answer.
func parseTagged(line []byte) (tag []byte, s sum, rest []byte, err error) {
	if !isTagged(line) {
		return nil, 0, nil, fmt.Errorf("%w: a line without a tag", authent.ErrGarbage)
	}
	tag, rest, ok := cutTag(line)
	if !ok || len(rest) <= sumLength || rest[sumLength] != ' ' {
		return nil, 0, nil, fmt.Errorf("%w: a tag without a sum", authent.ErrGarbage)
	}
	for _, c := range rest[:sumLength] {
		switch {
		case c >= '0' && c <= '9':
			s = s<<4 | sum(c-'0')
		case c >= 'a' && c <= 'f':
			s = s<<4 | sum(c-'a'+10)
		default:
			return nil, 0, nil, fmt.Errorf("%w: a sum that is none", authent.ErrGarbage)
		}
	}
	return tag, s, rest[sumLength+1:], nil
}

// appendTag writes a number as a tag.
func appendTag(b []byte, n uint64) []byte {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz"
	var text [maxTag]byte
	i := len(text)
	for {
		i--
		text[i] = digits[n%36]
		if n /= 36; n == 0 {
			return append(b, text[i:]...)
		}
	}
}

// parseTag reads what appendTag wrote.
func parseTag(tag []byte) (n uint64, ok bool) {
	for i, c := range tag {
		switch {
		case c == '0' && i == 0 && len(tag) > 1:
			return 0, false // two tags are never the same number
		case c >= '0' && c <= '9':
			n = n*36 + uint64(c-'0')
		default:
			n = n*36 + uint64(c-'a'+10)
		}
	}
	return n, len(tag) <= 12 // 36^12 fits
}
