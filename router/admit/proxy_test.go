package admit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
)

// v2 makes a header of version 2.
func v2(command, family byte, body string) string {
	head := append(bytes.Clone(signatureV2), command, family, 0, 0)
	binary.BigEndian.PutUint16(head[14:], uint16(len(body)))
	return string(head) + body
}

const (
	addr4 = "\xc0\x00\x02\x01\xc6\x33\x64\x01\xc3\x50\x03\xe1" // 192.0.2.1:50000, 198.51.100.1:993
	addr6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xc3\x50\x03\xe1"
)

var (
	want4 = Header{Client: netip.MustParseAddrPort("192.0.2.1:50000"), Local: netip.MustParseAddrPort("198.51.100.1:993")}
	want6 = Header{Client: netip.MustParseAddrPort("[2001:db8::1]:50000"), Local: netip.MustParseAddrPort("[2001:db8::2]:993")}
	own   = Header{Own: true}
)

var goodHeaders = map[string]struct {
	in   string
	want Header
}{
	"v1 TCP4":            {"PROXY TCP4 192.0.2.1 198.51.100.1 50000 993\r\n", want4},
	"v1 TCP6":            {"PROXY TCP6 2001:db8::1 2001:db8::2 50000 993\r\n", want6},
	"v1 shortest":        {"PROXY TCP4 1.1.1.1 1.1.1.1 0 0\r\n", Header{Client: netip.MustParseAddrPort("1.1.1.1:0"), Local: netip.MustParseAddrPort("1.1.1.1:0")}},
	"v1 shortest TCP6":   {"PROXY TCP6 :: :: 1 1\r\n", Header{Client: netip.MustParseAddrPort("[::]:1"), Local: netip.MustParseAddrPort("[::]:1")}},
	"v1 UNKNOWN":         {"PROXY UNKNOWN\r\n", own},
	"v1 UNKNOWN, longer": {"PROXY UNKNOWN ffff:f:f:f:f:f:f:f ffff:f:f:f:f:f:f:f 65535 65535\r\n", own},
	"v1 longest": {"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe 65535 65535\r\n",
		Header{Client: netip.MustParseAddrPort("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"), Local: netip.MustParseAddrPort("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe]:65535")}},
	"v2 TCP4":               {v2(0x21, 0x11, addr4), want4},
	"v2 TCP6":               {v2(0x21, 0x21, addr6), want6},
	"v2 LOCAL":              {v2(0x20, 0x00, ""), own},
	"v2 LOCAL with rubbish": {v2(0x20, 0x11, "rubbish"), own},
	"v2 UNSPEC":             {v2(0x21, 0x00, ""), own},
	"v2 with TLVs":          {v2(0x21, 0x11, addr4+"\x01\x00\x04imap\x04\x00\x00\x20\x00\x05\x01\x00\x00\x00\x00"), want4},
	"v2 at the bound":       {v2(0x21, 0x11, addr4+"\x04"+string([]byte{0x0f, 0xf1})+strings.Repeat("x", 4081)), want4},
	"v2 IPv4 in IPv6": {v2(0x21, 0x21, strings.Repeat("\x00", 10)+"\xff\xff\xc0\x00\x02\x01"+strings.Repeat("\x00", 10)+"\xff\xff\xc6\x33\x64\x01\xc3\x50\x03\xe1"),
		want4},
}

// TestGoodHeaders also holds that not one byte behind the header is read, whole
// and byte by byte.
func TestGoodHeaders(t *testing.T) {
	for name, c := range goodHeaders {
		t.Run(name, func(t *testing.T) {
			for _, slow := range []bool{false, true} {
				all := strings.NewReader(c.in + "\x16\x03\x01 and so on")
				var r io.Reader = all
				if slow {
					r = iotest.OneByteReader(all)
				}
				h, err := ReadHeader(r)
				if h != c.want || err != nil {
					t.Errorf("got %+v, %v, want %+v", h, err, c.want)
				}
				if rest, _ := io.ReadAll(all); string(rest) != "\x16\x03\x01 and so on" {
					t.Errorf("left %q behind the header", rest)
				}
			}
		})
	}
}

func TestBadHeaders(t *testing.T) {
	for name, in := range map[string]string{
		"a client without a header":  "a LOGIN anna@example.test sesame\r\n",
		"a TLS client":               "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on",
		"lower case":                 "proxy TCP4 192.0.2.1 198.51.100.1 50000 993\r\n",
		"bare LF":                    "PROXY TCP4 192.0.2.1 198.51.100.1 50000 993\n more",
		"LF in the middle":           "PROXY TCP4 192.0.2.1\n198.51.100.1 50000 993\r\n",
		"UNKNOWN with bare LF":       "PROXY UNKNOWN\n more bytes",
		"unknown family":             "PROXY UNIX /a /b 1 2\r\n",
		"UNKNOWNS":                   "PROXY UNKNOWNS\r\n more",
		"no addresses":               "PROXY TCP4 \r\n and more",
		"family and address differ":  "PROXY TCP4 2001:db8::1 2001:db8::2 50000 993\r\n",
		"family and address differ6": "PROXY TCP6 192.0.2.1 198.51.100.1 50000 993\r\n",
		"IPv4 in IPv6 as TCP4":       "PROXY TCP4 ::ffff:192.0.2.1 198.51.100.1 50000 993\r\n",
		"zone":                       "PROXY TCP6 fe80::1%eth0 2001:db8::2 50000 993\r\n",
		"port too big":               "PROXY TCP4 192.0.2.1 198.51.100.1 65536 993\r\n",
		"port far too big":           "PROXY TCP4 192.0.2.1 198.51.100.1 99999999999 993\r\n",
		"negative port":              "PROXY TCP4 192.0.2.1 198.51.100.1 -1 993\r\n",
		"port with a sign":           "PROXY TCP4 192.0.2.1 198.51.100.1 +5 993\r\n",
		"port with zeros":            "PROXY TCP4 192.0.2.1 198.51.100.1 00080 993\r\n",
		"local port too big":         "PROXY TCP4 192.0.2.1 198.51.100.1 50000 70000\r\n",
		"address with zeros":         "PROXY TCP4 192.0.02.1 198.51.100.1 50000 993\r\n",
		"double space":               "PROXY TCP4  192.0.2.1 198.51.100.1 50000 993\r\n",
		"one field more":             "PROXY TCP4 192.0.2.1 198.51.100.1 50000 993 x\r\n",
		"trailing space":             "PROXY TCP4 192.0.2.1 198.51.100.1 50000 993 \r\n",
		"no end":                     "PROXY TCP4 " + strings.Repeat("1", 1000),
		"108 bytes":                  "PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n",
		"v2 cut signature":           string(signatureV2[:11]) + "X\x21\x11\x00\x00",
		"v2 version 1":               v2(0x11, 0x11, addr4),
		"v2 unknown command":         v2(0x22, 0x11, addr4),
		"v2 UDP":                     v2(0x21, 0x12, addr4),
		"v2 Unix":                    v2(0x21, 0x31, strings.Repeat("x", 216)),
		"v2 short addresses":         v2(0x21, 0x21, addr4),
		"v2 too long":                v2(0x21, 0x11, addr4+strings.Repeat("x", maxV2)),
		"v2 TLV head cut":            v2(0x21, 0x11, addr4+"\x01\x00"),
		"v2 TLV body cut":            v2(0x21, 0x11, addr4+"\x01\x00\x05imap"),
	} {
		t.Run(name, func(t *testing.T) {
			if h, err := ReadHeader(strings.NewReader(in)); !errors.Is(err, ErrHeader) || h != (Header{}) {
				t.Errorf("got %+v, %v, want ErrHeader", h, err)
			}
		})
	}
}

// TestCutHeaders ends the stream behind every byte of every good header
// (Postfix had a null pointer hole there in 2021).
func TestCutHeaders(t *testing.T) {
	for name, c := range goodHeaders {
		for n := range len(c.in) {
			if _, err := ReadHeader(strings.NewReader(c.in[:n])); err == nil {
				t.Errorf("%s: a header after %d of %d bytes", name, n, len(c.in))
			}
		}
	}
}

func FuzzReadHeader(f *testing.F) {
	for _, c := range goodHeaders {
		f.Add([]byte(c.in))
	}
	f.Add([]byte("PROXY TCP4 1.1.1.1 1.1.1.1 99999 0\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		all := bytes.NewReader(in)
		h, err := ReadHeader(all)
		read := len(in) - all.Len()
		if read > 16+maxV2 || !bytes.HasPrefix(in, signatureV2) && read > maxV1 {
			t.Fatalf("read %d bytes", read)
		}
		if err != nil {
			if h != (Header{}) {
				t.Fatalf("got %+v beside %v", h, err)
			}
			return
		}
		if h.Own == h.Client.IsValid() || h.Own == h.Local.IsValid() {
			t.Fatalf("got %+v", h)
		}
		if in[0] == 'P' && !bytes.HasSuffix(in[:read], []byte("\r\n")) {
			t.Fatalf("took %q for a header", in[:read])
		}
	})
}
