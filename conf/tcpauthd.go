package conf

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Tcpauthd configures the directory daemon.
type Tcpauthd struct {
	Address     string      `toml:"address"`
	Admin       string      `toml:"admin"`
	Data        string      `toml:"data"` // the embedded user database's directory
	Secret      Secret      `toml:"secret"`
	Certificate Certificate `toml:"certificate"` // TLS on the listener when set
	Networks    []string    `toml:"networks"`    // who may connect; loopback only when empty

	// Where the users are.
	Store      string     `toml:"store"` // embedded (when empty), postgresql or module
	PostgreSQL PostgreSQL `toml:"postgresql"`
	Module     Module     `toml:"module"`

	// AuthHTTP answers nginx from the same users.
	AuthHTTP AuthHTTP `toml:"auth_http"`

	// Replication, of an embedded store. Replicas are read-only copies that follow their primary.
	Replicas   []string `toml:"replicas"`    // networks that may copy the database, password hashes and all; nobody when empty
	Primary    string   `toml:"primary"`     // host:port of the tcpauthd that this one is a replica of
	PrimaryTLS bool     `toml:"primary_tls"` // the primary has a certificate
	CAFile     string   `toml:"ca_file"`     // who signed it; cluster.ca_file when empty

	// Passwords.
	UpgradeHashes bool   `toml:"upgrade_hashes"` // a login replaces a weaker hash
	Argon2        Argon2 `toml:"argon2"`
}

// PostgreSQL is a user database that several tcpauthd share.
type PostgreSQL struct {
	DSN         string   `toml:"dsn"`      // a connection string or URL, without the password
	Password    Secret   `toml:"password"` // goes with it
	Connections int      `toml:"connections"`
	Timeout     Duration `toml:"timeout"`   // of a question, all included; 5s when zero
	Hashers     int      `toml:"hashers"`   // passwords hashed at the same time; one for each processor when zero
	HashWait    Duration `toml:"hash_wait"` // how long a login waits for its turn; 2s when zero
	Poll        Duration `toml:"poll"`      // how often changes are looked for although none was announced; 2s when zero
}

// Module is a NetWin authent module: a child process that has the users.
type Module struct {
	Command    []string `toml:"command"`     // program and arguments, without a shell
	Processes  int      `toml:"processes"`   // children, each with one request at a time; 2 when zero
	Timeout    Duration `toml:"timeout"`     // before a child that says nothing is killed; 10s when zero
	MaxWaiting int      `toml:"max_waiting"` // requests that may wait for a child; 4,096 when zero
	MaxBackoff Duration `toml:"max_backoff"` // longest pause before a child is started again; 5s when zero
	Farewell   Duration `toml:"farewell"`    // how long a child may take to end; 2s when zero
	ASCII      bool     `toml:"ascii"`       // it takes no other characters
	Dir        string   `toml:"dir"`         // where it runs; here when empty
	Env        []string `toml:"env"`         // NAME=value; this daemon's own when empty
}

// Argon2 are the costs of argon2id for new passwords.
type Argon2 struct {
	Memory  int `toml:"memory"`  // KiB; 19456 when zero
	Passes  int `toml:"passes"`  // 2 when zero
	Threads int `toml:"threads"` // 1 when zero
}

func (k *checker) tcpauthd() {
	t := &k.c.Tcpauthd
	k.store(t)
	if k.need("tcpauthd.address", t.Address != "", "the host:port to listen on") {
		k.listenAddress("tcpauthd.address", t.Address)
	}
	k.admin("tcpauthd.admin", t.Admin)
	k.certificate("tcpauthd.certificate", t.Certificate)
	k.networks("tcpauthd.networks", t.Networks)
	k.secret("tcpauthd.secret", &t.Secret)
	k.replication(t)
	k.argon2("tcpauthd.argon2", t.Argon2)
	if t.UpgradeHashes && t.Primary != "" {
		k.bad("tcpauthd.upgrade_hashes", "has no meaning on a replica: the primary's logins do it")
	}
	k.authHTTP("tcpauthd.auth_http", &t.AuthHTTP)
}

// store checks where the users are, and what only one kind of store has.
func (k *checker) store(t *Tcpauthd) {
	if !k.oneOf("tcpauthd.store", t.Store, "embedded", "postgresql", "module") {
		return
	}
	if t.Store == "" || t.Store == "embedded" {
		k.need("tcpauthd.data", t.Data != "", "the directory of the user database")
	} else {
		for _, one := range []struct {
			key string
			set bool
		}{{"data", t.Data != ""}, {"replicas", len(t.Replicas) > 0}, {"primary", t.Primary != ""}} {
			if one.set {
				k.bad("tcpauthd."+one.key, "is for the embedded store; with store = %q remove it", t.Store)
			}
		}
	}
	switch t.Store {
	case "postgresql":
		k.postgresql("tcpauthd.postgresql", &t.PostgreSQL)
	case "module":
		k.need("tcpauthd.module.command", len(t.Module.Command) > 0 && t.Module.Command[0] != "", "the module's program and its arguments, such as [\"/usr/local/surgemail/nwauth\"]")
		if t.UpgradeHashes {
			k.bad("tcpauthd.upgrade_hashes", "has no meaning with a module: it keeps its hashes itself")
		}
		for i, e := range t.Module.Env {
			if !strings.Contains(e, "=") {
				k.bad(fmt.Sprintf("tcpauthd.module.env[%d]", i), "%q is not NAME=value", e)
			}
		}
		k.dir("tcpauthd.module.dir", t.Module.Dir)
	}
}

// postgresql demands that a password and the hashes cross no network unseen.
func (k *checker) postgresql(key string, p *PostgreSQL) {
	k.secret(key+".password", &p.Password)
	if !k.need(key+".dsn", p.DSN != "", "a connection string such as \"host=10.0.3.4 dbname=mail user=tcpauthd sslmode=verify-full sslrootcert=ca.pem\"") {
		return
	}
	settings, err := dsnSettings(p.DSN)
	if err != nil {
		k.bad(key+".dsn", "is neither a URL postgres://… nor words such as host=… dbname=…")
		return
	}
	if settings["password"] != "" {
		k.bad(key+".dsn", "has a password in it, where everybody who reads this file sees it; set %s.password = { file = \"…\" }", key)
	}
	host := settings["host"]
	local := host == "" || strings.HasPrefix(host, "/") || loopback(host)
	if !local && settings["sslmode"] != "verify-full" {
		k.bad(key+".dsn", "goes to %s without sslmode=verify-full: password hashes would cross the network for whoever listens, or to whoever answers", host)
	}
}

// dsnSettings reads the settings of a connection string, of either form, that
// matter here.
func dsnSettings(dsn string) (map[string]string, error) {
	out := make(map[string]string)
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		u, err := url.Parse(dsn)
		if err != nil {
			return nil, err
		}
		out["host"] = u.Hostname()
		if password, set := u.User.Password(); set {
			out["password"] = password
		}
		for name := range u.Query() {
			out[name] = u.Query().Get(name)
		}
		return out, nil
	}
	for _, word := range strings.Fields(dsn) {
		name, value, found := strings.Cut(word, "=")
		if !found {
			return nil, errors.New("a word without =")
		}
		out[name] = strings.Trim(value, "'")
	}
	return out, nil
}

func (k *checker) replication(t *Tcpauthd) {
	k.networks("tcpauthd.replicas", t.Replicas)
	if len(t.Replicas) > 0 && !t.Secret.IsSet() {
		k.bad("tcpauthd.replicas", "needs tcpauthd.secret: a copy has all password hashes")
	}
	if t.Primary == "" {
		if t.PrimaryTLS || t.CAFile != "" {
			k.bad("tcpauthd.primary", "missing; primary_tls and ca_file are about the primary")
		}
		return
	}
	k.dialAddress("tcpauthd.primary", t.Primary)
	if t.Primary == t.Address {
		k.bad("tcpauthd.primary", "%s is this daemon itself", t.Primary)
	}
	if t.CAFile != "" && !t.PrimaryTLS {
		k.bad("tcpauthd.ca_file", "has no meaning without primary_tls = true")
	}
	k.file("tcpauthd.ca_file", t.CAFile)
}

// argon2 bounds the costs to what can be verified again.
func (k *checker) argon2(key string, a Argon2) {
	for _, c := range []struct {
		name        string
		value, most int
	}{{"memory", a.Memory, 256 << 10}, {"passes", a.Passes, 32}, {"threads", a.Threads, 16}} {
		if c.value < 0 || c.value > c.most {
			k.bad(key+"."+c.name, "%d is not between 1 and %d", c.value, c.most)
		}
	}
	if a.Memory > 0 && a.Memory < 8*max(1, a.Threads) {
		k.bad(key+".memory", "%d KiB is less than 8 for each thread", a.Memory)
	}
}
