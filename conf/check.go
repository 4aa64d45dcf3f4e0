package conf

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// checker gathers the problems of one configuration.
type checker struct {
	c        *Config
	s        *source
	problems []error
}

func (k *checker) bad(key, format string, args ...any) {
	k.problems = append(k.problems, &Problem{File: k.s.path, Line: k.s.line(key), Key: key, Text: fmt.Sprintf(format, args...)})
}

// check looks at what every daemon shares, then at the daemon's own part.
func (k *checker) check(daemon Daemon) {
	k.cluster()
	k.backends()
	switch daemon {
	case ProxydDaemon:
		k.directory()
		k.proxyd()
	case BackenddDaemon:
		k.directory()
		k.backendd()
	case TcpauthdDaemon:
		k.tcpauthd()
	}
}

func (k *checker) secret(key string, s *Secret) {
	if err := s.load(k.s.resolve); err != nil {
		k.bad(key, "%v", err)
	}
}

// need reports a missing key.
func (k *checker) need(key string, present bool, what string) bool {
	if !present {
		k.bad(key, "missing; set %s", what)
	}
	return present
}

func (k *checker) notNegative(key string, n int) {
	if n < 0 {
		k.bad(key, "%d is negative; leave the key out for the default", n)
	}
}

// oneOf checks a word. The empty word stands for the first, the default.
func (k *checker) oneOf(key, value string, words ...string) bool {
	if value == "" || slices.Contains(words, value) {
		return true
	}
	k.bad(key, "%q is none of %s%s", value, strings.Join(words, ", "), k.didYouMean(value, words))
	return false
}

func (k *checker) logLevel(key, level string) {
	k.oneOf(key, level, "info", "debug", "warn", "error")
}

func (k *checker) didYouMean(value string, words []string) string {
	if near := nearest(value, words); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

func (k *checker) file(key, path string) bool {
	if path == "" {
		return true
	}
	f, err := os.Open(k.s.resolve(path))
	if err != nil {
		k.bad(key, "cannot read %s: %s", path, cause(err))
		return false
	}
	f.Close()
	return true
}

func (k *checker) dir(key, path string) {
	if path == "" {
		return
	}
	if info, err := os.Stat(k.s.resolve(path)); err != nil {
		k.bad(key, "cannot use %s: %s", path, cause(err))
	} else if !info.IsDir() {
		k.bad(key, "%s is not a directory", path)
	}
}

// listenAddress checks host:port where the host is an IP address, a name, or
// empty for every address.
func (k *checker) listenAddress(key, address string) bool {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		k.bad(key, "%q is not host:port, such as 127.0.0.1:143 or [::1]:143 (or :143 for every address)", address)
		return false
	}
	return true
}

// dialAddress checks host:port with both parts.
func (k *checker) dialAddress(key, address string) {
	host, port, err := net.SplitHostPort(address)
	if err == nil {
		var n uint64
		n, err = strconv.ParseUint(port, 10, 16)
		if err == nil && (n == 0 || host == "") {
			err = fmt.Errorf("incomplete")
		}
	}
	if err != nil {
		k.bad(key, "%q is not host:port, such as mail1.example.com:993 or [2001:db8::1]:993", address)
	}
}

// admin checks the address of an admin listener: it has no login of its own
// yet, so it stays on this machine.
func (k *checker) admin(key, address string) {
	if address == "" || !k.listenAddress(key, address) {
		return
	}
	if host, _, _ := net.SplitHostPort(address); !loopback(host) {
		k.bad(key, "%q is not a loopback address; the admin listener must stay on this machine: 127.0.0.1 or [::1]", address)
	}
}

// loopback reports whether a host is this machine alone.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (k *checker) networks(key string, networks []string) {
	for i, n := range networks {
		if _, err := netip.ParsePrefix(n); err != nil {
			hint := ""
			if ip, err := netip.ParseAddr(n); err == nil {
				hint = fmt.Sprintf("; did you mean %s/%d?", n, ip.BitLen())
			}
			k.bad(fmt.Sprintf("%s[%d]", key, i), "%q is not a network such as 10.0.2.0/24%s", n, hint)
		}
	}
}

// Networks parses networks that Load has checked.
func Networks(networks []string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(networks))
	for _, n := range networks {
		if p, err := netip.ParsePrefix(n); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}
