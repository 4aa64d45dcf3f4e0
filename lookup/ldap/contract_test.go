package ldap_test

import (
	"strings"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/ldap"
	"switchyard/lookup/lookuptest"
)

// options are those of the suite's accounts. Time-outs are long, for busy
// machines; tests in which they pass set their own.
func options() ldap.Options {
	return ldap.Options{
		BindDN: serviceDN, Password: servicePass, Attributes: []string{"displayName", "description"},
		DialTimeout: 10 * time.Second, BindTimeout: 10 * time.Second, SearchTimeout: 10 * time.Second, BackOff: 200 * time.Millisecond,
	}
}

func open(t testing.TB, url string, opts ldap.Options) *ldap.Directory {
	t.Helper()
	return openAll(t, []string{url}, base, opts)
}

func openAll(t testing.TB, urls []string, base string, opts ldap.Options) *ldap.Directory {
	t.Helper()
	d, err := ldap.New(urls, base, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestContract(t *testing.T) {
	t.Parallel()
	s := startSlapd(t, "accounts.ldif")
	lookuptest.Run(t, s.fixture(options()))
}

// fixture is the suite's for a server that can be stopped and frozen. Time-outs
// are short only where a test waits for them.
func (s *slapd) fixture(opts ldap.Options) lookuptest.Fixture {
	const short = 2 * time.Second
	return lookuptest.Fixture{
		Open: func(t *testing.T) lookup.Directory {
			if strings.HasSuffix(t.Name(), "/hanging") {
				opts.SearchTimeout, opts.BindTimeout, opts.DialTimeout = short, short, short
			}
			return open(t, s.plain, opts)
		},
		Break:   func(t *testing.T) { s.stop(t) },
		Hang:    func(t *testing.T) { s.hang(t) },
		Mend:    func(t *testing.T) { s.mend(t) },
		Timeout: short,
	}
}

// The same over the other ways to connect: TestMatrix has ldap and ldaps.
func TestContractOnEachTransport(t *testing.T) {
	t.Parallel()
	s := common(t)
	startTLS := options()
	startTLS.StartTLS, startTLS.TLS = true, s.tlsConfig()
	startTLS.Canary = "berta@example.test"
	for name, c := range map[string]struct {
		url  string
		opts ldap.Options
	}{
		"StartTLS": {s.plain, startTLS},
		"ldapi":    {s.socket, options()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lookuptest.Run(t, lookuptest.Fixture{Open: func(t *testing.T) lookup.Directory { return open(t, c.url, c.opts) }})
		})
	}
}
