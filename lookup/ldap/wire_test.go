package ldap_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
)

// wired puts a wire before a slapd and returns the URL to reach it by.
func wired(t *testing.T, raw string) (*lookuptest.Wire, string) {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	w := lookuptest.NewWire(t, "tcp", u.Host)
	return w, strings.Replace(raw, u.Host, w.Addr(), 1)
}

// TestMatrix are the rows "LDAP" of the matrix in lookup/tcpauth: the wire to
// slapd stops, hangs, slows and truncates, in clear and over TLS, where it
// garbles too.
func TestMatrix(t *testing.T) {
	t.Parallel()
	s := common(t)
	for name, url := range map[string]string{"ldap": s.plain, "ldaps": s.tls} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lookuptest.RunAll(t, lookuptest.Row{
				Unprotected: name == "ldap",
				Open: func(t *testing.T, timeout time.Duration) (lookup.Directory, lookuptest.Faults) {
					w, at := wired(t, url)
					opts := options()
					opts.TLS = s.tlsConfig()
					opts.SearchTimeout, opts.BindTimeout, opts.DialTimeout = timeout, timeout, 2*time.Second
					opts.BackOff = 40 * time.Millisecond
					return open(t, at, opts), w
				},
			})
		})
	}
}

func TestHostileNames(t *testing.T) {
	t.Parallel()
	s := common(t)
	lookuptest.RunHostile(t, func(t *testing.T) lookup.Directory { return open(t, s.plain, options()) })
}
