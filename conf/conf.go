// Package conf is the configuration of all daemons: one strict TOML schema, so
// that one file can serve a whole machine.
//
// Load refuses what it does not understand: an unknown key, an address that is
// none, a file that is missing, two settings that contradict each other. Each
// problem names the file, the line and the key, and says how to mend it; all
// problems of a file are reported together. Paths are relative to the file's
// own directory.
//
// Only commands import this package. Parts of the system take Options.
package conf

import (
	"fmt"
	"time"
)

// Config is a whole configuration file.
type Config struct {
	Cluster   Cluster   `toml:"cluster"`
	Directory Directory `toml:"directory"`
	Backends  []Backend `toml:"backend"`
	Proxyd    Proxyd    `toml:"proxyd"`
	Backendd  Backendd  `toml:"backendd"`
	Tcpauthd  Tcpauthd  `toml:"tcpauthd"`

	source *source
}

// Cluster is what all tiers agree on.
type Cluster struct {
	Domains        []string `toml:"domains"`         // the mail domains whose users live here
	DefaultDomain  string   `toml:"default_domain"`  // added to a login name without a domain
	DefaultBackend string   `toml:"default_backend"` // home of accounts that are found without one
	ProxyName      string   `toml:"proxy_name"`      // what proxies log in to backends as; "proxy" when empty
	ProxySecret    Secret   `toml:"proxy_secret"`    // the password that goes with it
	CAFile         string   `toml:"ca_file"`         // signs the certificates between the tiers; the system's CAs when empty
}

// Directory says where accounts are looked up: in one source, or in several
// that are stacked.
type Directory struct {
	Source
	Members []Member       `toml:"member"` // of kind stack, in order
	Cache   DirectoryCache `toml:"cache"`
}

// Source is one directory.
type Source struct {
	Kind    string           `toml:"kind"` // tcpauth, ldap or file; the whole may be a stack
	TCPAuth DirectoryTCPAuth `toml:"tcpauth"`
	LDAP    DirectoryLDAP    `toml:"ldap"`
	File    DirectoryFile    `toml:"file"`
}

// Member is one directory of a stack.
type Member struct {
	Name    string   `toml:"name"`    // for logs
	Domains []string `toml:"domains"` // asked of this one only; none: all that no other lists
	Next    bool     `toml:"next"`    // an account that is absent here is asked of the next one
	Source
}

// DirectoryTCPAuth are the tcpauthd servers, in the order of preference.
type DirectoryTCPAuth struct {
	Servers []string `toml:"servers"`
	Secret  Secret   `toml:"secret"`
	TLS     bool     `toml:"tls"`
	CAFile  string   `toml:"ca_file"` // cluster.ca_file when empty
	Timeout Duration `toml:"timeout"` // for each request; 5s when zero
}

// DirectoryLDAP is an LDAP directory.
type DirectoryLDAP struct {
	Preset       string         `toml:"preset"` // filter and attributes of a known schema: switchyard (when empty), laser, zimbra, ad, ad-upn
	URLs         []string       `toml:"urls"`   // ldap://, ldaps:// or ldapi://, in the order of preference
	Spread       bool           `toml:"spread"` // ask the servers in turn instead
	StartTLS     bool           `toml:"starttls"`
	CAFile       string         `toml:"ca_file"` // cluster.ca_file when empty
	BindDN       string         `toml:"bind_dn"`
	BindPassword Secret         `toml:"bind_password"`
	External     bool           `toml:"external"`    // bind with SASL EXTERNAL: as the certificate, or as the process on ldapi
	Certificate  Certificate    `toml:"certificate"` // shown to the servers
	Verify       string         `toml:"verify"`      // bind (when empty): as the user; hash: read attributes.hash
	Base         string         `toml:"base"`
	Filter       string         `toml:"filter"` // with {name} for the account's name
	Canary       string         `toml:"canary"` // an account that always exists: a server that does not show it is not believed
	Timeout      Duration       `toml:"timeout"`
	Attributes   LDAPAttributes `toml:"attributes"`
}

// LDAPAttributes are the names of attributes in the directory.
type LDAPAttributes struct {
	Name       string   `toml:"name"`
	Home       string   `toml:"home"`
	Generation string   `toml:"generation"`
	Status     string   `toml:"status"`
	Quota      string   `toml:"quota"`
	Forward    string   `toml:"forward"`
	Hash       string   `toml:"hash"`
	Others     []string `toml:"others"`
}

// DirectoryFile is a directory in a text file of NWAuth records.
type DirectoryFile struct {
	Path string `toml:"path"`
}

// DirectoryCache is what a proxy remembers of the directory's answers.
type DirectoryCache struct {
	Entries    int      `toml:"entries"`     // 100,000 when zero
	Positive   Duration `toml:"positive"`    // 5m when zero
	Negative   Duration `toml:"negative"`    // 10s when zero
	Password   Duration `toml:"password"`    // how long a verified password is remembered, as a keyed hash; 5m when zero
	Stale      Duration `toml:"stale"`       // how long old answers route while the directory is away; 24h when zero
	StaleLogin Duration `toml:"stale_login"` // … and log in, at most 15m; 15m when zero
}

// Backend is a named mail store and its nodes.
type Backend struct {
	Name  string `toml:"name"`
	Nodes []Node `toml:"node"`
}

// Node is one backendd, as proxies reach it.
type Node struct {
	Name       string `toml:"name"`        // the backend's name when empty
	TLS        string `toml:"tls"`         // implicit (when empty), starttls or off
	ServerName string `toml:"server_name"` // in its certificate; the host of the address when empty
	IMAP       string `toml:"imap"`
	POP3       string `toml:"pop3"`
	Submission string `toml:"submission"`
	LMTP       string `toml:"lmtp"`
}

// Certificate is a certificate chain with its key, both PEM.
type Certificate struct {
	CertFile string `toml:"cert_file"`
	KeyFile  string `toml:"key_file"`
}

// Empty reports whether no certificate is configured.
func (c Certificate) Empty() bool { return c.CertFile == "" && c.KeyFile == "" }

// Listener is one address that a proxy or a backend serves.
type Listener struct {
	Protocol       string   `toml:"protocol"`
	Address        string   `toml:"address"`
	TLS            string   `toml:"tls"`             // starttls (when empty), implicit or off
	CleartextLogin bool     `toml:"cleartext_login"` // let users log in without TLS
	MaxSessions    int      `toml:"max_sessions"`    // 20,000 when zero
	ProxyProtocol  bool     `toml:"proxy_protocol"`  // every connection must begin with a PROXY header
	ProxyNetworks  []string `toml:"proxy_networks"`  // … and come from one of these networks
}

// Proxyd configures a proxy.
type Proxyd struct {
	Hostname    string      `toml:"hostname"` // in greetings; the machine's name when empty
	Admin       string      `toml:"admin"`    // address of the admin listener; none when empty
	Certificate Certificate `toml:"certificate"`
	Listeners   []Listener  `toml:"listen"`
	PreLogin    Duration    `toml:"pre_login"` // the whole time before login; 1m when zero
	Connect     Duration    `toml:"connect"`   // for connecting to a backend, TLS included; 5s when zero
	MaxMessage  int64       `toml:"max_message"`
	SpoolDir    string      `toml:"spool_dir"`
}

// Backendd configures a backend's node.
type Backendd struct {
	Backend       string      `toml:"backend"` // which backend this node belongs to
	Node          string      `toml:"node"`    // its own name; the backend's when empty
	Hostname      string      `toml:"hostname"`
	Admin         string      `toml:"admin"`
	Data          string      `toml:"data"` // the store's directory
	Certificate   Certificate `toml:"certificate"`
	ProxyNetworks []string    `toml:"proxy_networks"` // where proxies may connect from
	Proxies       []string    `toml:"proxies"`        // the proxies' inbound SMTP listeners, for mail to other homes
	ProxiesTLS    string      `toml:"proxies_tls"`    // starttls (when empty) or off
	Relay         string      `toml:"relay"`          // smart host for other domains; none: such mail is refused
	RelayTLS      string      `toml:"relay_tls"`
	Listeners     []Listener  `toml:"listen"`
	MaxMessage    int64       `toml:"max_message"` // bytes; 50 MiB when zero
}

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

// Duration is a time.Duration written like "90s" or "1h30m".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration such as 90s, 5m or 1h30m", text)
	}
	*d = Duration(v)
	return nil
}

// Or returns the duration, or def when it is zero.
func (d Duration) Or(def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return time.Duration(d)
}

func (d Duration) String() string { return time.Duration(d).String() }
