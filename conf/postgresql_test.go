package conf

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// exposed returns a host that the driver would send a password to without
// knowing who it is; "" when there is none.
func exposed(c *pgconn.Config) string {
	unseen := func(host string, config *tls.Config) bool {
		return !strings.HasPrefix(host, "/") && !loopback(host) && (config == nil || config.InsecureSkipVerify || config.ServerName == "")
	}
	if unseen(c.Host, c.TLSConfig) {
		return c.Host
	}
	for _, f := range c.Fallbacks {
		if unseen(f.Host, f.TLSConfig) {
			return f.Host
		}
	}
	return ""
}

// FuzzDSN holds the check of connection strings against the driver's own
// reading of them: what is accepted goes nowhere unseen and has no password in
// it.
func FuzzDSN(f *testing.F) {
	for _, dsn := range []string{
		"host=/run/postgresql dbname=mail", "host=db.example.com sslmode=verify-full", "host=db.example.com sslmode=verify-ca",
		"host=db.example.com sslmode=require", "host=db.example.com", "dbname=mail", "", "host='a b' dbname = 'x\\'y' user=\\'", "host=a,b sslmode=verify-full",
		"host=127.0.0.1,db.example.com port=5432,5433", "host=localhost password=x", "host= dbname=x", "host=127.0.0.1\\ host=evil",
		"postgres://u@db.example.com/mail?sslmode=verify-full", "postgres://u:p@127.0.0.1/mail", "postgres:///mail?host=/run/postgresql", "postgres:///mail",
		"postgresql://a,b/mail?sslmode=verify-full", "postgres://a:1,b:2/mail", "postgres://[::1]:5432/x", "postgres://127.0.0.1/x?host=evil&host=127.0.0.1",
		"postgres://127.0.0.1/x?password=y", "host=127.0.0.1 host=evil", "HOST=evil host=127.0.0.1", "host=127.0.0.1 service=x", "postgres://127.0.0.1%2cevil/",
		"host=evil sslmode=disable sslmode=verify-full", "host=evil sslmode='verify-full", "host=/tmp,evil",
	} {
		f.Add(dsn)
	}
	for _, name := range []string{"PGHOST", "PGSSLMODE", "PGPASSWORD", "PGSERVICE", "PGSERVICEFILE", "PGPASSFILE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"} {
		f.Setenv(name, "")
	}
	f.Setenv("PGHOST", "from.the.environment")
	f.Fuzz(func(t *testing.T, dsn string) {
		k := &checker{c: new(Config), s: &source{path: "x.toml"}}
		k.postgresql("tcpauthd.postgresql", &PostgreSQL{DSN: dsn})
		if len(k.problems) > 0 {
			return
		}
		c, err := pgconn.ParseConfig(dsn)
		if err != nil {
			return
		}
		if host := exposed(c); host != "" {
			t.Errorf("%q is accepted and goes to %q unseen", dsn, host)
		}
		if c.Password != "" {
			t.Errorf("%q is accepted with a password in it", dsn)
		}
	})
}

// TestDSN: what is right is accepted, and the driver understands it alike.
func TestDSN(t *testing.T) {
	for _, c := range []struct{ dsn, host string }{
		{"host=/run/postgresql dbname=mail", "/run/postgresql"},
		{" host = '/run/post gres' user='o\\'neill'\tdbname=mail ", "/run/post gres"},
		{"host=/run/a\\ b", "/run/a b"},
		{"host=127.0.0.1 user=tcpauthd", "127.0.0.1"},
		{"host=db.example.com sslmode=verify-full", "db.example.com"},
		{"host=db1.example.com,db2.example.com port=5432,5433 sslmode=verify-full", "db1.example.com,db2.example.com"},
		{"postgres://tcpauthd@db1.example.com,db2.example.com/mail?sslmode=verify-full", "db1.example.com,db2.example.com"},
		{"postgres://tcpauthd@[2001:db8::1]:5433/mail?sslmode=verify-full", "2001:db8::1"},
		{"postgres:///mail?host=/run/postgresql", "/run/postgresql"},
	} {
		k := &checker{c: new(Config), s: &source{path: "x.toml"}}
		k.postgresql("tcpauthd.postgresql", &PostgreSQL{DSN: c.dsn})
		for _, p := range k.problems {
			t.Errorf("%q: %v", c.dsn, p)
		}
		settings, _ := dsnSettings(c.dsn)
		driver, err := pgconn.ParseConfig(c.dsn)
		if err != nil {
			t.Errorf("%q: the driver says %v", c.dsn, err)
			continue
		}
		if first, _, _ := strings.Cut(c.host, ","); settings["host"] != c.host || driver.Host != first {
			t.Errorf("%q: host %q, the driver has %q", c.dsn, settings["host"], driver.Host)
		}
	}
}
