package conf

// Tcpauthd configures the directory daemon.
type Tcpauthd struct {
	Address     string      `toml:"address"`
	Admin       string      `toml:"admin"`
	Data        string      `toml:"data"` // the user database's directory
	Secret      Secret      `toml:"secret"`
	Certificate Certificate `toml:"certificate"` // TLS on the listener when set
	Networks    []string    `toml:"networks"`    // who may connect; loopback only when empty

	// Replication. Replicas are read-only copies that follow their primary.
	Replicas   []string `toml:"replicas"`    // networks that may copy the database, password hashes and all; nobody when empty
	Primary    string   `toml:"primary"`     // host:port of the tcpauthd that this one is a replica of
	PrimaryTLS bool     `toml:"primary_tls"` // the primary has a certificate
	CAFile     string   `toml:"ca_file"`     // who signed it; cluster.ca_file when empty

	// Passwords.
	UpgradeHashes bool   `toml:"upgrade_hashes"` // a login replaces a weaker hash
	Argon2        Argon2 `toml:"argon2"`
}

// Argon2 are the costs of argon2id for new passwords.
type Argon2 struct {
	Memory  int `toml:"memory"`  // KiB; 19456 when zero
	Passes  int `toml:"passes"`  // 2 when zero
	Threads int `toml:"threads"` // 1 when zero
}

func (k *checker) tcpauthd() {
	t := &k.c.Tcpauthd
	k.need("tcpauthd.data", t.Data != "", "the directory of the user database")
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
