package harness

import (
	"fmt"
	"net"
)

// FreeAddresses returns n addresses with ports of host that nothing listens on.
// All are held at once and then let go, so they differ. Somebody else could
// take one before the daemon does; with a loopback address of its own
// (127.1.2.3) a cluster is alone with its ports.
func FreeAddresses(host string, n int) ([]string, error) {
	var out []string
	for range n {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer ln.Close()
		out = append(out, ln.Addr().String())
	}
	return out, nil
}
