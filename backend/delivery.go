package backend

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"strings"
)

// DeliveryID is the name of one delivery: SHA-256 over the envelope sender,
// the recipient and the message's bytes as the client sent them. A retry of
// the same transaction by the same sending server, through whichever proxy,
// has the same id, so that it can be recognised and stored once.
//
// Trace is the number of bytes at the start of the message that the proxy put
// there itself (its Received line, which differs each time): they are left
// out. A message without a Message-ID field has no delivery id (ok is false):
// two such messages with equal bytes may well be two messages, and rather
// twice than lost.
func DeliveryID(from, to string, body io.ReaderAt, size, trace int64) (id [32]byte, ok bool, err error) {
	if trace < 0 || trace > size {
		trace = 0
	}
	has, err := hasMessageID(io.NewSectionReader(body, trace, size-trace))
	if err != nil || !has {
		return id, false, err
	}
	h := sha256.New()
	for _, s := range []string{"switchyard delivery 1", from, to} {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(s)))
		h.Write(n[:])
		io.WriteString(h, s)
	}
	if _, err := io.Copy(h, io.NewSectionReader(body, trace, size-trace)); err != nil {
		return id, false, err
	}
	h.Sum(id[:0])
	return id, true, nil
}

// maxHeaderScan bounds how far hasMessageID looks.
const maxHeaderScan = 256 << 10

// hasMessageID reports whether the header has a Message-ID field with
// something in it.
func hasMessageID(r io.Reader) (bool, error) {
	br := bufio.NewReaderSize(io.LimitReader(r, maxHeaderScan), 4096)
	inField := false
	for {
		line, err := br.ReadSlice('\n')
		long := err == bufio.ErrBufferFull
		if err != nil && err != io.EOF && !long {
			return false, err
		}
		text := bytes.TrimRight(line, "\r\n")
		switch {
		case len(text) == 0 && long: // a line of carriage returns
			inField = false
		case len(text) == 0:
			return false, nil
		case text[0] == ' ' || text[0] == '\t':
			if inField && len(bytes.TrimSpace(text)) > 0 {
				return true, nil
			}
		default:
			name, value, found := strings.Cut(string(text), ":")
			inField = found && strings.EqualFold(strings.TrimRight(name, " \t"), "Message-ID")
			if inField && strings.TrimSpace(value) != "" {
				return true, nil
			}
		}
		for long { // the rest of a line that is longer than the buffer
			_, err = br.ReadSlice('\n')
			long = err == bufio.ErrBufferFull
		}
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}
