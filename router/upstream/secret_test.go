package upstream

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"switchyard/internal/tlsconf"
)

// elsewhere is a connection that says its peer is another machine.
type elsewhere struct {
	net.Conn
	peer string
}

func (e elsewhere) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(e.peer))
}

// TestSecretStaysOffTheNetwork: a node without TLS on another machine does not
// get the proxy's secret, whatever it offers.
func TestSecretStaysOffTheNetwork(t *testing.T) {
	for peer, want := range map[string]string{"10.0.3.1:24": "", "127.0.0.1:24": "sesame", "[::1]:24": "sesame"} {
		s, err := New([]Backend{{Name: "b1", Nodes: []Node{{Name: "b1", Services: map[Service]Endpoint{LMTP: {Address: peer, TLS: tlsconf.Off}}}}}}, Options{
			ProxyName: "proxy", ProxySecret: "sesame",
			Dial: func(context.Context, string, string) (net.Conn, error) {
				near, far := net.Pipe()
				t.Cleanup(func() { far.Close() })
				return elsewhere{near, peer}, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		b, err := s.Dial(context.Background(), Want{Backend: "b1", Service: LMTP})
		if err != nil {
			t.Fatal(err)
		}
		if _, secret := b.Login(); secret != want {
			t.Errorf("%s: got %q, want %q", peer, secret, want)
		}
		b.Close()
	}
}
