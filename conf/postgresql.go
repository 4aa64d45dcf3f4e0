package conf

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
)

// PostgreSQL is a user database that several tcpauthd share. The role needs the
// right to create a schema in it: tcpauthd makes its tables itself, and brings
// them up to date.
type PostgreSQL struct {
	DSN         string   `toml:"dsn"`         // a connection string or URL of PostgreSQL's, without the password
	Password    Secret   `toml:"password"`    // goes with it
	CAFile      string   `toml:"ca_file"`     // signed the server's certificate; cluster.ca_file when empty
	Connections int      `toml:"connections"` // 8 when zero
	Timeout     Duration `toml:"timeout"`     // of a question, all included; 5s when zero
	Poll        Duration `toml:"poll"`        // how often changes are looked for although none was announced; 2s when zero
}

// postgresql demands that a password and the hashes cross no network unseen.
func (k *checker) postgresql(key string, p *PostgreSQL) {
	k.secret(key+".password", &p.Password)
	k.file(key+".ca_file", p.CAFile)
	k.notNegative(key+".connections", p.Connections)
	key += ".dsn"
	if !k.need(key, p.DSN != "", "a connection string such as \"host=10.0.3.4 dbname=mail user=tcpauthd sslmode=verify-full\"") {
		return
	}
	settings, err := dsnSettings(p.DSN)
	if err != nil {
		k.bad(key, "%v; write a URL postgres://user@host/database?sslmode=verify-full, or words such as host=… dbname=… user=… sslmode=verify-full", err)
		return
	}
	if settings["password"] != "" {
		k.bad(key, "has a password in it, where everybody who reads this file sees it; set tcpauthd.postgresql.password = { file = \"…\" }")
	}
	for _, name := range []string{"sslrootcert", "sslcert", "sslkey"} {
		if file := settings[name]; file != "" && file != "system" && !filepath.IsAbs(file) {
			k.bad(key, "%s=%s would be looked for where the daemon is started; write the whole path%s", name, file,
				map[bool]string{true: ", or set tcpauthd.postgresql.ca_file in its place"}[name == "sslrootcert"])
		}
	}
	for host := range strings.SplitSeq(settings["host"], ",") {
		switch {
		case host == "":
			k.bad(key, "names no host, and what is in the environment would decide; write host=/run/postgresql for the socket of this machine")
		case !strings.HasPrefix(host, "/") && !loopback(host) && settings["sslmode"] != "verify-full":
			k.bad(key, "goes to %s without sslmode=verify-full: password hashes would cross the network for whoever listens, or to whoever answers there", host)
		}
	}
}

// dsnSettings reads the settings of a connection string, of either form. The
// error shows nothing of it.
func dsnSettings(dsn string) (map[string]string, error) {
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		return urlSettings(dsn)
	}
	return wordSettings(dsn)
}

func urlSettings(dsn string) (map[string]string, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return nil, errors.New("is no URL")
	}
	out := make(map[string]string)
	var hosts []string
	for host := range strings.SplitSeq(u.Host, ",") {
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		hosts = append(hosts, strings.Trim(host, "[]"))
	}
	out["host"] = strings.Join(hosts, ",")
	if password, set := u.User.Password(); set {
		out["password"] = password
	}
	for name, values := range u.Query() {
		out[name] = values[0]
	}
	return out, nil
}

// wordSettings reads name=value name='value with spaces'; in a value, \\ and
// \' stand for \ and '. Spaces around = are allowed.
func wordSettings(dsn string) (map[string]string, error) {
	const space = " \t\n\r\v\f"
	out := make(map[string]string)
	for rest := strings.Trim(dsn, space); rest != ""; rest = strings.TrimLeft(rest, space) {
		name, after, found := strings.Cut(rest, "=")
		name = strings.TrimRight(name, space)
		if !found || name == "" || strings.ContainsAny(name, space) {
			return nil, errors.New("has a word without name=")
		}
		after = strings.TrimLeft(after, space)
		end := space
		if quoted, found := strings.CutPrefix(after, "'"); found {
			after, end = quoted, "'"
		}
		var value strings.Builder
		i := 0
		for ; i < len(after) && !strings.Contains(end, after[i:i+1]); i++ {
			if after[i] == '\\' {
				if i++; i == len(after) {
					break
				}
			}
			value.WriteByte(after[i])
		}
		if end == "'" && i >= len(after) {
			return nil, fmt.Errorf("has a quoted value of %s that does not end", name)
		}
		out[name] = value.String()
		rest = after[min(i+1, len(after)):]
	}
	return out, nil
}
