package admit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"

	proxyproto "github.com/armon/go-proxyproto"
)

// ErrHeader: what came first on the connection is not a PROXY header, or not a
// right one. The connection must be closed without an answer: guessing would
// let a client forge one.
var ErrHeader = errors.New("bad PROXY header")

const (
	maxV1 = 107     // with CRLF, as the specification says
	maxV2 = 4 << 10 // addresses and TLVs; a balancer with a client certificate sends some hundred bytes

	// A first read of this length does not read past the shortest header of
	// either version ("PROXY UNKNOWN\r\n" has 15 bytes).
	firstRead = 12
)

var (
	prefixV1    = []byte("PROXY ")
	signatureV2 = []byte("\r\n\r\n\x00\r\nQUIT\n")
)

// Header is what a load balancer says about a connection.
type Header struct {
	Client netip.AddrPort // who connected to the balancer
	Local  netip.AddrPort // to what address

	// Own says that the header names nobody: the balancer speaks for itself (a
	// health check), or does not know. The socket's addresses count.
	Own bool
}

// ReadHeader reads a PROXY header, version 1 or 2, and not one byte more, so
// that what follows can be a TLS handshake. The caller sets a deadline, and has
// made sure that the peer is one whose headers are believed. Errors: ErrHeader,
// and r's own.
func ReadHeader(r io.Reader) (Header, error) {
	start := make([]byte, firstRead, maxV1)
	if _, err := io.ReadFull(r, start); err != nil {
		return Header{}, err
	}
	switch {
	case bytes.Equal(start, signatureV2):
		return readV2(r)
	case bytes.HasPrefix(start, prefixV1):
		line, err := readLineV1(r, start)
		if err != nil {
			return Header{}, err
		}
		return parseV1(line)
	default:
		return Header{}, fmt.Errorf("%w: neither version's signature", ErrHeader)
	}
}

// readLineV1 reads on to the end of the line. It asks for no more bytes at a
// time than a right line must still have.
func readLineV1(r io.Reader, line []byte) ([]byte, error) {
	unknown := bytes.HasPrefix(line, []byte("PROXY U"))
	for {
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			if i != len(line)-1 || line[i-1] != '\r' {
				return nil, fmt.Errorf("%w: line ends in a bare LF", ErrHeader)
			}
			return line, nil
		}
		need := 1
		if !unknown && line[len(line)-1] != '\r' {
			need = 2 + 2*max(0, 5-bytes.Count(line, []byte(" ")))
		}
		if len(line)+need > maxV1 {
			return nil, fmt.Errorf("%w: longer than %d bytes", ErrHeader, maxV1)
		}
		n := len(line)
		line = line[:n+need]
		if _, err := io.ReadFull(r, line[n:]); err != nil {
			return nil, err
		}
	}
}

// parseV1 parses a whole line. The fields are go-proxyproto's to take apart; it
// takes any port and any family, so both are checked here.
func parseV1(line []byte) (Header, error) {
	text := string(line[:len(line)-2])
	if text == "PROXY UNKNOWN" || len(text) > len("PROXY UNKNOWN ") && text[:len("PROXY UNKNOWN ")] == "PROXY UNKNOWN " {
		return Header{Own: true}, nil
	}
	conn := proxyproto.NewConn(memory{bytes.NewReader(line)}, 0)
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		return Header{}, fmt.Errorf("%w: %q: %v", ErrHeader, text, err)
	}
	src, okSrc := conn.RemoteAddr().(*net.TCPAddr)
	dst, okDst := conn.LocalAddr().(*net.TCPAddr)
	if !okSrc || !okDst {
		return Header{}, fmt.Errorf("%w: %q", ErrHeader, text)
	}
	fields := bytes.Split(line[:len(line)-2], []byte(" "))
	want4 := string(fields[1]) == "TCP4"
	client, err := checkV1(src, string(fields[2]), string(fields[4]), want4)
	if err != nil {
		return Header{}, err
	}
	local, err := checkV1(dst, string(fields[3]), string(fields[5]), want4)
	if err != nil {
		return Header{}, err
	}
	return Header{Client: client, Local: local}, nil
}

// checkV1 holds what go-proxyproto made of an address against its text.
func checkV1(got *net.TCPAddr, addr, port string, want4 bool) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Is4() != want4 || a.Zone() != "" || !net.IP(a.AsSlice()).Equal(got.IP) {
		return netip.AddrPort{}, fmt.Errorf("%w: address %q", ErrHeader, addr)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || int(n) != got.Port || strconv.Itoa(got.Port) != port {
		return netip.AddrPort{}, fmt.Errorf("%w: port %q", ErrHeader, port)
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), nil
}

// readV2 reads what follows the signature of version 2.
func readV2(r io.Reader) (Header, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Header{}, err
	}
	length := int(binary.BigEndian.Uint16(head[2:]))
	if length > maxV2 {
		return Header{}, fmt.Errorf("%w: longer than %d bytes", ErrHeader, maxV2)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return Header{}, err
	}
	return parseV2(head[0], head[1], body)
}

func parseV2(command, family byte, body []byte) (Header, error) {
	switch command {
	case 0x20: // LOCAL: the rest is to be skipped, whatever it is
		return Header{Own: true}, nil
	case 0x21:
	default:
		return Header{}, fmt.Errorf("%w: version and command %#02x", ErrHeader, command)
	}
	size := 0
	switch family {
	case 0x00: // UNSPEC: not known
		return Header{Own: true}, nil
	case 0x11:
		size = 4
	case 0x21:
		size = 16
	default: // a mail client comes over TCP
		return Header{}, fmt.Errorf("%w: family %#02x", ErrHeader, family)
	}
	if len(body) < 2*size+4 {
		return Header{}, fmt.Errorf("%w: addresses cut short", ErrHeader)
	}
	if err := checkTLVs(body[2*size+4:]); err != nil {
		return Header{}, err
	}
	src, _ := netip.AddrFromSlice(body[:size])
	dst, _ := netip.AddrFromSlice(body[size : 2*size])
	ports := body[2*size:]
	return Header{
		Client: netip.AddrPortFrom(src.Unmap(), binary.BigEndian.Uint16(ports)),
		Local:  netip.AddrPortFrom(dst.Unmap(), binary.BigEndian.Uint16(ports[2:])),
	}, nil
}

// checkTLVs makes sure that the TLVs fill what is left exactly. None of them is
// used.
func checkTLVs(b []byte) error {
	for len(b) > 0 {
		if len(b) < 3 {
			return fmt.Errorf("%w: TLV cut short", ErrHeader)
		}
		n := 3 + int(binary.BigEndian.Uint16(b[1:]))
		if len(b) < n {
			return fmt.Errorf("%w: TLV cut short", ErrHeader)
		}
		b = b[n:]
	}
	return nil
}

// memory is a connection that delivers the bytes of a reader and nothing else.
type memory struct{ *bytes.Reader }

func (memory) Write([]byte) (int, error)        { return 0, io.ErrClosedPipe }
func (memory) Close() error                     { return nil }
func (memory) LocalAddr() net.Addr              { return nil }
func (memory) RemoteAddr() net.Addr             { return nil }
func (memory) SetDeadline(time.Time) error      { return nil }
func (memory) SetReadDeadline(time.Time) error  { return nil }
func (memory) SetWriteDeadline(time.Time) error { return nil }
