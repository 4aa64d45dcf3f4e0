package load

import (
	"encoding/json"
	"io"
	"testing"

	"switchyard/bench/peers/stub"
)

// start runs the stub and the load as the comparison does, in this process, and
// returns the stub's addresses and how the load is asked.
func start(t *testing.T) (stub.Addresses, func(Order) Result) {
	t.Helper()
	run := func(serve func(io.Reader, io.Writer) error) (*json.Encoder, *json.Decoder) {
		orders, toServer := io.Pipe()
		fromServer, answers := io.Pipe()
		done := make(chan error, 1)
		go func() { done <- serve(orders, answers) }()
		t.Cleanup(func() {
			toServer.Close()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return json.NewEncoder(toServer), json.NewDecoder(fromServer)
	}
	_, addresses := run(stub.Serve)
	var a stub.Addresses
	if err := addresses.Decode(&a); err != nil {
		t.Fatal(err)
	}
	orders, results := run(Serve)
	return a, func(o Order) (r Result) {
		t.Helper()
		if err := orders.Encode(o); err != nil {
			t.Fatal(err)
		}
		if err := results.Decode(&r); err != nil {
			t.Fatal(err)
		}
		return r
	}
}

// TestSessions: without a proxy in between, clients and stub understand each
// other, in every protocol.
func TestSessions(t *testing.T) {
	stub, ask := start(t)
	for service, address := range stub {
		r := ask(Order{Do: "run", Service: service, Address: address, Concurrency: 4})
		if r.Error != "" || r.Sessions != Users {
			t.Errorf("%s: %d sessions of %d: %s", service, r.Sessions, Users, r.Error)
		}
	}
}

// TestBulk: what was asked for arrives, to the byte.
func TestBulk(t *testing.T) {
	stub, ask := start(t)
	r := ask(Order{Do: "bulk", Service: "imap", Address: stub["imap"], Megabytes: 8})
	if r.Error != "" || r.Bytes != 8<<20 {
		t.Errorf("%d bytes: %s", r.Bytes, r.Error)
	}
}

// TestHold: sessions are added up to the number that is asked for, and dropped.
func TestHold(t *testing.T) {
	stub, ask := start(t)
	for _, n := range []int{5, 20} {
		r := ask(Order{Do: "hold", Service: "imap", Address: stub["imap"], Concurrency: 3, Sessions: n})
		if r.Error != "" || r.Sessions != n {
			t.Errorf("%d sessions of %d: %s", r.Sessions, n, r.Error)
		}
	}
	if r := ask(Order{Do: "drop"}); r.Error != "" {
		t.Error(r.Error)
	}
}

// TestFailures: a proxy that does something else is reported, not measured.
func TestFailures(t *testing.T) {
	stub, ask := start(t)
	for name, o := range map[string]Order{
		"another protocol": {Do: "run", Service: "imap", Address: stub["pop3"], Concurrency: 2},
		"no TLS there":     {Do: "run", Service: "imap", TLS: true, Address: stub["imap"], Concurrency: 2},
		"an unknown order": {Do: "dance"},
		"unknown service":  {Do: "hold", Service: "gopher", Address: stub["imap"], Concurrency: 1, Sessions: 1},
	} {
		if r := ask(o); r.Error == "" {
			t.Errorf("%s: no error, %d sessions", name, r.Sessions)
		}
	}
}

// TestLiteralSize reads what announces a message, and nothing else.
func TestLiteralSize(t *testing.T) {
	if n, err := literalSize("* 1 FETCH (BODY[] {1048576}"); err != nil || n != 1<<20 {
		t.Error(n, err)
	}
	for _, bad := range []string{"", "}", "f OK done", "* 1 FETCH {x}"} {
		if n, err := literalSize(bad); err == nil {
			t.Errorf("%q: %d", bad, n)
		}
	}
}
