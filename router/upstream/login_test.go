package upstream

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"switchyard/internal/wire"
)

// otherMachine is a connection in clear to another machine.
type otherMachine struct{ net.Conn }

func (otherMachine) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.7:143"))
}

func backWith(l Login, conn net.Conn) *Back {
	return &Back{Conn: wire.NewConn(conn), name: "proxy", secret: "cluster", login: l}
}

// TestCredentials: each policy logs in as it says, and neither a secret nor a
// password goes over a connection in clear to another machine.
func TestCredentials(t *testing.T) {
	here, _ := net.Pipe()
	defer here.Close()
	const account = "anna@example.test"
	for name, c := range map[string]struct {
		login    Login
		password string
		want     wire.Plain
		err      error
	}{
		"proxy":                 {Login{}, "pw", wire.Plain{Authzid: account, Authcid: "proxy", Password: "cluster"}, nil},
		"proxy, own secret":     {Login{Secret: "own"}, "", wire.Plain{Authzid: account, Authcid: "proxy", Password: "own"}, nil},
		"master":                {Login{User: "%u*proxy", Secret: "own"}, "", wire.Plain{Authcid: account + "*proxy", Password: "own"}, nil},
		"forward":               {Login{Forward: true}, "pw", wire.Plain{Authcid: account, Password: "pw"}, nil},
		"forward, local":        {Login{Forward: true, User: "%n"}, "pw", wire.Plain{Authcid: "anna", Password: "pw"}, nil},
		"forward, turned":       {Login{Forward: true, User: "%d\\%n"}, "pw", wire.Plain{Authcid: "example.test\\anna", Password: "pw"}, nil},
		"forward, none to pass": {Login{Forward: true}, "", wire.Plain{}, ErrNoPassword},
	} {
		got, err := backWith(c.login, here).Credentials(account, c.password)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: got %v (%q), %v, want %v", name, got, got.Password, err, c.want)
		}
		if got, err := backWith(c.login, otherMachine{here}).Credentials(account, "pw"); !errors.Is(err, ErrNoSecret) || got.Password != "" {
			t.Errorf("%s, in clear: got %v, %v", name, got, err)
		}
	}
	if got, err := (&Back{Conn: wire.NewConn(here), name: "proxy"}).Credentials(account, "pw"); !errors.Is(err, ErrNoSecret) {
		t.Errorf("no secret: got %v, %v", got, err)
	}
	// What a name holds is never taken for a placeholder.
	if got := (Login{User: "%n*%d"}).name("%d@evil.test"); got != "%d*evil.test" {
		t.Errorf("got %q", got)
	}
}

// TestLoginPolicy: what cannot be meant is refused, and no secret is printed.
func TestLoginPolicy(t *testing.T) {
	for l, want := range map[Login]string{
		{}:                                   "",
		{Forward: true, Unchecked: true}:     "",
		{User: "%u*proxy", Secret: "s3cret"}: "",
		{Unchecked: true}:                    "left unchecked",
		{Forward: true, Secret: "s3cret"}:    "of no use",
		{User: "proxy", Secret: "s3cret"}:    "would be the same",
		{User: "%u%x"}:                       "%u, %n and %d only",
		{User: "%u\r\n"}:                     "control character",
		{User: "%n", Forward: true}:          "",
		{User: "%n@%d*adm", Secret: "abc"}:   "",
	} {
		_, err := New([]Backend{{Name: "b1", Login: l, Nodes: []Node{node("b1a", "192.0.2.1:143")}}}, Options{})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v: got %v, want %q", l, err, want)
		}
		if text := fmt.Sprintf("%v %+v %#v %v", l, l, l, err); l.Secret != "" && strings.Contains(text, l.Secret) {
			t.Errorf("a secret is printed: %s", text)
		}
	}
}
