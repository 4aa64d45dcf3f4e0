package tcpauth

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"switchyard/lookup/internal/netwin"
)

// maxLine is the longest line of either side in bytes, without its line end.
const maxLine = netwin.MaxLine

// maxEarlyLine is the longest line before a client has shown the secret.
const maxEarlyLine = 1024

var errLineTooLong = errors.New("line too long")

// readLine reads one line of at most limit bytes. Lines end in LF, with or
// without a CR before it: modules on Unix and on Windows differ. It returns
// the line end that was used. The slice is valid until the next read. Errors:
// errLineTooLong, when the rest has not been read; io.EOF between lines,
// io.ErrUnexpectedEOF inside one.
func readLine(r *bufio.Reader, limit int) (line []byte, end string, err error) {
	line, err = r.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		line = bytes.Clone(line)
		for err == bufio.ErrBufferFull && len(line) <= limit {
			var part []byte
			part, err = r.ReadSlice('\n')
			line = append(line, part...)
		}
	}
	switch {
	case err == bufio.ErrBufferFull:
		return nil, "", errLineTooLong
	case err == io.EOF && len(line) > 0:
		return nil, "", io.ErrUnexpectedEOF
	case err != nil:
		return nil, "", err
	}
	line, end = line[:len(line)-1], "\n"
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line, end = line[:n-1], "\r\n"
	}
	if len(line) > limit {
		return nil, "", errLineTooLong
	}
	return line, end, nil
}
