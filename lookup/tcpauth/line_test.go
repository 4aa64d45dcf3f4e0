package tcpauth

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestReadLine(t *testing.T) {
	for what, c := range map[string]struct {
		in, want, end string
		err           error
	}{
		"LF":       {"quit\nx", "quit", "\n", nil},
		"CRLF":     {"quit\r\nx", "quit", "\r\n", nil},
		"empty":    {"\n", "", "\n", nil},
		"CR CR LF": {"quit\r\r\n", "quit\r", "\r\n", nil},
		"at most":  {strings.Repeat("x", 100) + "\n", strings.Repeat("x", 100), "\n", nil},
		"too long": {strings.Repeat("x", 101) + "\n", "", "", errLineTooLong},
		"endless":  {strings.Repeat("x", 100000), "", "", errLineTooLong},
		"cut":      {"qui", "", "", io.ErrUnexpectedEOF},
		"closed":   {"", "", "", io.EOF},
	} {
		line, end, err := readLine(bufio.NewReaderSize(strings.NewReader(c.in), 16), 100)
		if string(line) != c.want || end != c.end || !errors.Is(err, c.err) {
			t.Errorf("%s: got %q, %q, %v, want %q, %q, %v", what, line, end, err, c.want, c.end, c.err)
		}
	}
}
