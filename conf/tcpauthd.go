package conf

import (
	"fmt"
	"strings"
)

// Tcpauthd configures the directory daemon.
type Tcpauthd struct {
	Address     string      `toml:"address"`
	Admin       string      `toml:"admin"`
	LogLevel    string      `toml:"log_level"` // info (when empty), debug, warn or error
	Data        string      `toml:"data"`      // the embedded user database's directory
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

	// Passwords, of an embedded store and of PostgreSQL.
	UpgradeHashes bool     `toml:"upgrade_hashes"` // a login replaces a weaker hash
	Argon2        Argon2   `toml:"argon2"`
	Hashers       int      `toml:"hashers"`   // passwords hashed at the same time; one for each processor when zero
	HashWait      Duration `toml:"hash_wait"` // how long a login waits for its turn before it is told to come back; 2s when zero
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
	k.logLevel("tcpauthd.log_level", t.LogLevel)
	k.certificate("tcpauthd.certificate", t.Certificate)
	k.networks("tcpauthd.networks", t.Networks)
	k.secret("tcpauthd.secret", &t.Secret)
	k.replication(t)
	k.argon2("tcpauthd.argon2", t.Argon2)
	k.notNegative("tcpauthd.hashers", t.Hashers)
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
	store := t.Store
	if store == "" {
		store = "embedded"
	}
	for _, one := range []struct{ key, store string }{
		{"data", "embedded"}, {"replicas", "embedded"}, {"primary", "embedded"}, {"postgresql", "postgresql"}, {"module", "module"},
	} {
		if one.store != store && k.s.has("tcpauthd."+one.key) {
			k.bad("tcpauthd."+one.key, "is for store = %q and the store is %s: set tcpauthd.store, or remove this", one.store, store)
		}
	}
	switch store {
	case "embedded":
		k.need("tcpauthd.data", t.Data != "", "the directory of the user database")
	case "postgresql":
		k.postgresql("tcpauthd.postgresql", &t.PostgreSQL)
	case "module":
		k.module("tcpauthd.module", &t.Module)
		for _, key := range []string{"upgrade_hashes", "argon2", "hashers", "hash_wait"} {
			if k.s.has("tcpauthd." + key) {
				k.bad("tcpauthd."+key, "has no meaning with a module, which keeps its hashes itself; remove it")
			}
		}
	}
}

func (k *checker) module(key string, m *Module) {
	k.need(key+".command", len(m.Command) > 0 && m.Command[0] != "", "the module's program and its arguments, such as [\"/usr/local/surgemail/nwauth\"]")
	for i, e := range m.Env {
		if name, _, found := strings.Cut(e, "="); !found || name == "" {
			k.bad(fmt.Sprintf("%s.env[%d]", key, i), "%q is not NAME=value", e)
		}
	}
	k.dir(key+".dir", m.Dir)
	k.notNegative(key+".processes", m.Processes)
	k.notNegative(key+".max_waiting", m.MaxWaiting)
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
