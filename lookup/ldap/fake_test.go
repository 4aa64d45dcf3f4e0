package ldap_test

import (
	"bufio"
	"net"
	"sync"
	"testing"

	ber "github.com/go-asn1-ber/asn1-ber"
	goldap "github.com/go-ldap/ldap/v3"
)

// fake is a server that says what a test wants, which no real one can be
// brought to say.
type fake struct {
	url      string
	listener net.Listener

	mu    sync.Mutex
	conns map[net.Conn][]string // what was asked on each connection, in order
	wg    sync.WaitGroup
}

// request is one message of a client.
type request struct {
	conn net.Conn
	id   int64
	op   *ber.Packet
}

// name is the operation, and whose bind it is.
func (r request) name() string {
	switch r.op.Tag {
	case goldap.ApplicationBindRequest:
		return "bind " + r.op.Children[1].Data.String()
	case goldap.ApplicationSearchRequest:
		if r.op.Children[1].Value == int64(goldap.ScopeBaseObject) {
			return "look"
		}
		return "search"
	}
	return "other"
}

// startFake runs a server that calls answer for each message; on tells it what
// to say on a new connection, or is nil.
func startFake(t testing.TB, on func(net.Conn), answer func(request)) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{url: "ldap://" + l.Addr().String(), listener: l, conns: make(map[net.Conn][]string)}
	f.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns[conn] = nil
			f.mu.Unlock()
			f.wg.Go(func() { f.serve(conn, on, answer) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		f.hangUp()
		f.wg.Wait()
	})
	return f
}

func (f *fake) serve(conn net.Conn, on func(net.Conn), answer func(request)) {
	defer conn.Close()
	if on != nil {
		on(conn)
	}
	in := bufio.NewReader(conn)
	for {
		p, err := ber.ReadPacket(in)
		if err != nil || len(p.Children) < 2 {
			return
		}
		id, _ := p.Children[0].Value.(int64)
		r := request{conn: conn, id: id, op: p.Children[1]}
		f.mu.Lock()
		f.conns[conn] = append(f.conns[conn], r.name())
		f.mu.Unlock()
		if answer != nil {
			answer(r)
		}
	}
}

// hangUp closes every connection.
func (f *fake) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for conn := range f.conns {
		conn.Close()
	}
}

// asked returns what was asked on each connection.
func (f *fake) asked() [][]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out [][]string
	for _, ops := range f.conns {
		out = append(out, append([]string(nil), ops...))
	}
	return out
}

// count returns how often an operation was asked for, on all connections.
func (f *fake) count(op string) int {
	n := 0
	for _, ops := range f.asked() {
		for _, o := range ops {
			if o == op {
				n++
			}
		}
	}
	return n
}

// result answers with a result code (RFC 4511 §4.1.9).
func (r request) result(tag ber.Tag, code int64) {
	op := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "")
	op.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, code, ""))
	op.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, "", ""))
	op.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, "so says the fake", ""))
	r.send(op)
}

// entry answers with an entry.
func (r request) entry(dn string, attributes ...string) {
	op := ber.Encode(ber.ClassApplication, ber.TypeConstructed, goldap.ApplicationSearchResultEntry, nil, "")
	op.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, dn, ""))
	list := ber.NewSequence("")
	for i := 0; i < len(attributes); i += 2 {
		a := ber.NewSequence("")
		a.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, attributes[i], ""))
		values := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
		values.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, attributes[i+1], ""))
		a.AppendChild(values)
		list.AppendChild(a)
	}
	op.AppendChild(list)
	r.send(op)
}

func (r request) send(op *ber.Packet) {
	p := ber.NewSequence("")
	p.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, r.id, ""))
	p.AppendChild(op)
	r.conn.Write(p.Bytes())
}

// wanted is the name in a search for the default filter, or someone's when it
// is for all names.
func (r request) wanted() string {
	and := r.op.Children[6]
	if len(and.Children[1].Children) == 0 {
		return "someone@example.test"
	}
	return and.Children[1].Children[1].Data.String()
}

// agreeable answers every bind and search with success; the account's DN is
// its name.
func agreeable(r request) {
	switch r.op.Tag {
	case goldap.ApplicationBindRequest:
		r.result(goldap.ApplicationBindResponse, 0)
	case goldap.ApplicationSearchRequest:
		if r.name() == "look" {
			r.entry(base)
			r.result(goldap.ApplicationSearchResultDone, 0)
			return
		}
		r.entry("swName="+r.wanted(), "swName", r.wanted(), "swHome", "b1")
		r.result(goldap.ApplicationSearchResultDone, 0)
	}
}
