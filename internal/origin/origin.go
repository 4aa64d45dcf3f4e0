// Package origin carries a client's identity from the proxy to the backend in
// each protocol's own way, with the names that Dovecot uses, so that either
// side may be Dovecot: IMAP in ID (x-originating-ip and friends), POP3,
// ManageSieve, SMTP and LMTP in XCLIENT.
//
// Every value is typed here and encoded here; nothing that a client said is
// ever copied into a command. What comes in is parsed strictly. Whether to
// believe it is not decided here: an identity is believed only from a trusted
// peer, before login, once.
package origin

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// DefaultTTL is how many proxies a session may pass before it is taken for a
// loop.
const DefaultTTL = 7

// maxSession is the longest session id in bytes, as in Dovecot.
const maxSession = 64

// ErrMalformed: an identity that cannot be one.
var ErrMalformed = errors.New("malformed client identity")

// Origin is what a backend is told about a proxied session.
type Origin struct {
	Session    string         // the id that the first proxy gave the session
	Client     netip.AddrPort // the client's own address
	Local      netip.AddrPort // the address that the client connected to
	TLS        bool           // whether the client's connection is encrypted
	TTL        int            // proxies that may still follow; zero: not said
	Generation uint64         // the account's home generation that the proxy knows; zero: not said
	HELO       string         // what an SMTP client called itself; not believed, only logged
}

// NewSession makes a session id: sixteen letters and digits that begin with
// the time, so that ids sort, and end in 32 random bits.
func NewSession(now time.Time) string {
	var b [10]byte
	binary.BigEndian.PutUint64(b[:8], uint64(now.UnixMilli())<<16)
	rand.Read(b[6:])
	return strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

// ValidSession reports whether s may be taken for a session id: short, and
// made of characters that need no quoting anywhere.
func ValidSession(s string) bool {
	if s == "" || len(s) > maxSession {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.:/+@", c) >= 0) {
			return false
		}
	}
	return true
}

// The parts of FORWARD and x-forward-… that are ours.
const forwardGeneration = "home-generation"

// ID returns the key/value pairs for IMAP's ID command (RFC 2971).
func (o Origin) ID() [][2]string {
	out := make([][2]string, 0, 8)
	add := func(k, v string) { out = append(out, [2]string{k, v}) }
	if ValidSession(o.Session) {
		add("x-session-id", o.Session)
	}
	if o.Client.IsValid() {
		add("x-originating-ip", o.Client.Addr().Unmap().String())
		add("x-originating-port", strconv.Itoa(int(o.Client.Port())))
	}
	if o.Local.IsValid() {
		add("x-connected-ip", o.Local.Addr().Unmap().String())
		add("x-connected-port", strconv.Itoa(int(o.Local.Port())))
	}
	if o.TTL > 0 {
		add("x-proxy-ttl", strconv.Itoa(o.TTL))
	}
	add("x-client-transport", o.transport())
	if o.Generation > 0 {
		add("x-forward-"+forwardGeneration, strconv.FormatUint(o.Generation, 10))
	}
	return out
}

func (o Origin) transport() string {
	if o.TLS {
		return "TLS"
	}
	return "insecure"
}

// FromID reads the pairs of an ID command. Keys are case-insensitive; those it
// does not know are passed over. ok is false when no pair carries identity.
// Errors: ErrMalformed.
func FromID(pairs [][2]string) (o Origin, ok bool, err error) {
	var p parser
	for _, kv := range pairs {
		v := kv[1]
		switch key := strings.ToLower(kv[0]); key {
		case "x-session-id", "x-session-ext-id":
			p.session(v)
		case "x-originating-ip":
			p.client.ip(v)
		case "x-originating-port":
			p.client.port(v)
		case "x-connected-ip":
			p.local.ip(v)
		case "x-connected-port":
			p.local.port(v)
		case "x-proxy-ttl":
			p.ttl(v)
		case "x-client-transport":
			p.transport(v)
		case "x-forward-" + forwardGeneration:
			p.generation(v)
		default:
			continue
		}
		ok = true
	}
	o, err = p.origin()
	return o, ok, err
}

// Dialect is a protocol's way of writing XCLIENT.
type Dialect int

// SMTP stands for SMTP and LMTP: values are xtext and IPv6 addresses carry a
// prefix. POP3 stands for POP3 and ManageSieve: values are as they are.
const (
	SMTP Dialect = iota
	POP3
)

// maxHELO bounds HELO so that a whole XCLIENT stays within the 512 bytes of an
// SMTP command line.
const maxHELO = 100

// XCLIENT returns the arguments of an XCLIENT command, for SMTP only those
// whose names the server offered (in any case). It is empty when the server
// offered none of use. ADDR comes last, since some servers stop trusting the
// connection behind it.
func (o Origin) XCLIENT(d Dialect, offered []string) string {
	var out []string
	add := func(k, v string) {
		if d == SMTP {
			if !containsFold(offered, k) {
				return
			}
			v = XText(v)
		}
		out = append(out, k+"="+v)
	}
	if ValidSession(o.Session) {
		add("SESSION", o.Session)
	}
	if o.TTL > 0 {
		add("TTL", strconv.Itoa(o.TTL))
	}
	add("CLIENT-TRANSPORT", o.transport())
	if o.Generation > 0 {
		add("FORWARD", base64.StdEncoding.EncodeToString([]byte(forwardGeneration+"="+strconv.FormatUint(o.Generation, 10))))
	}
	if o.HELO != "" && d == SMTP && len(o.HELO) <= maxHELO {
		add("HELO", o.HELO)
	}
	if o.Local.IsValid() {
		add("DESTADDR", d.address(o.Local.Addr()))
		add("DESTPORT", strconv.Itoa(int(o.Local.Port())))
	}
	if o.Client.IsValid() {
		add("PORT", strconv.Itoa(int(o.Client.Port())))
		add("ADDR", d.address(o.Client.Addr()))
	}
	return strings.Join(out, " ")
}

// XCLIENTNames are the attributes that ParseXCLIENT understands, for a
// server's EHLO.
func XCLIENTNames() []string {
	return []string{"ADDR", "PORT", "DESTADDR", "DESTPORT", "SESSION", "TTL", "CLIENT-TRANSPORT", "FORWARD", "HELO", "PROTO", "NAME", "LOGIN"}
}

// ParseXCLIENT reads the arguments of an XCLIENT command. NAME, PROTO and LOGIN
// are read over: a LOGIN never authenticates. Unknown attributes and bad values
// are ErrMalformed. hasAddr tells whether ADDR was there: the identity is
// complete with it, and no further XCLIENT is believed.
func ParseXCLIENT(d Dialect, args string) (o Origin, hasAddr bool, err error) {
	var p parser
	for _, arg := range strings.Fields(args) {
		k, v, found := strings.Cut(arg, "=")
		if !found {
			return o, false, fmt.Errorf("%w: %q is not NAME=value", ErrMalformed, clip(arg))
		}
		if d == SMTP {
			if v, err = DecodeXText(v); err != nil {
				return o, false, err
			}
			if strings.EqualFold(v, "[UNAVAILABLE]") || strings.EqualFold(v, "[TEMPUNAVAIL]") {
				continue
			}
		}
		switch strings.ToUpper(k) {
		case "ADDR":
			p.client.ip(strings.TrimPrefix(v, "IPV6:"))
			hasAddr = true
		case "PORT":
			p.client.port(v)
		case "DESTADDR":
			p.local.ip(strings.TrimPrefix(v, "IPV6:"))
		case "DESTPORT":
			p.local.port(v)
		case "SESSION":
			p.session(v)
		case "TTL":
			p.ttl(v)
		case "CLIENT-TRANSPORT":
			p.transport(v)
		case "FORWARD":
			p.forward(v)
		case "HELO":
			p.o.HELO = clip(v)
		case "NAME", "PROTO", "LOGIN", "DESTNAME", "TIMEOUT":
		default:
			return o, false, fmt.Errorf("%w: unknown attribute %q", ErrMalformed, clip(k))
		}
	}
	o, err = p.origin()
	return o, hasAddr, err
}

// address writes an address for XCLIENT.
func (d Dialect) address(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if d == SMTP && a.Is6() {
		return "IPV6:" + a.String()
	}
	return a.String()
}

// parser gathers an Origin and keeps the first mistake.
type parser struct {
	o             Origin
	client, local endpoint
	err           error
}

type endpoint struct {
	addr netip.Addr
	num  uint16
	err  error
}

func (e *endpoint) ip(s string) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		e.err = fmt.Errorf("%w: address %q", ErrMalformed, clip(s))
		return
	}
	e.addr = a.Unmap()
}

func (e *endpoint) port(s string) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		e.err = fmt.Errorf("%w: port %q", ErrMalformed, clip(s))
		return
	}
	e.num = uint16(n)
}

func (e *endpoint) addrPort() netip.AddrPort {
	if !e.addr.IsValid() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(e.addr, e.num)
}

func (p *parser) fail(what, value string) {
	if p.err == nil {
		p.err = fmt.Errorf("%w: %s %q", ErrMalformed, what, clip(value))
	}
}

func (p *parser) session(v string) {
	if !ValidSession(v) {
		p.fail("session", v)
		return
	}
	p.o.Session = v
}

func (p *parser) ttl(v string) {
	n, err := strconv.ParseUint(v, 10, 8)
	if err != nil || n == 0 {
		p.fail("TTL", v)
		return
	}
	p.o.TTL = int(n)
}

func (p *parser) transport(v string) {
	if len(v) > 128 {
		p.fail("transport", v)
		return
	}
	p.o.TLS = strings.HasPrefix(v, "TLS")
}

func (p *parser) generation(v string) {
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		p.fail("home generation", v)
		return
	}
	p.o.Generation = n
}

// forward reads FORWARD: base64 of tab-separated key=value pairs, of which one
// is ours.
func (p *parser) forward(v string) {
	raw, err := base64.StdEncoding.DecodeString(v)
	if err != nil || len(raw) > 1024 {
		p.fail("FORWARD", v)
		return
	}
	for pair := range strings.SplitSeq(string(raw), "\t") {
		if k, v, found := strings.Cut(pair, "="); found && k == forwardGeneration {
			p.generation(v)
		}
	}
}

func (p *parser) origin() (Origin, error) {
	if err := errors.Join(p.err, p.client.err, p.local.err); err != nil {
		return Origin{}, err
	}
	p.o.Client, p.o.Local = p.client.addrPort(), p.local.addrPort()
	return p.o, nil
}

// ForwardGeneration encodes a home generation for LMTP's XRCPTFORWARD
// parameter, and ParseForward reads it back; zero when there is none.
func ForwardGeneration(generation uint64) string {
	return base64.StdEncoding.EncodeToString([]byte(forwardGeneration + "=" + strconv.FormatUint(generation, 10)))
}

// ParseForward reads the home generation from an XRCPTFORWARD parameter.
func ParseForward(v string) (uint64, error) {
	var p parser
	p.forward(v)
	return p.o.Generation, p.err
}

// clip shortens a stranger's value for an error text.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

func containsFold(list []string, s string) bool {
	for _, e := range list {
		if strings.EqualFold(e, s) {
			return true
		}
	}
	return false
}
