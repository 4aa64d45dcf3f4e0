package conf

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Directory says where accounts are looked up: in one source, or in several
// that are stacked.
type Directory struct {
	Source
	Members []Member       `toml:"member"` // of kind stack, in order
	Cache   DirectoryCache `toml:"cache"`
	Resolve Resolve        `toml:"resolve"`
}

// Resolve says how recipients are resolved: aliases, details, catch-alls. Proxies
// and backends must agree on it.
type Resolve struct {
	Relayed   []string `toml:"relayed"`   // domains whose mail is passed on to backendd.relay
	Separator string   `toml:"separator"` // characters before a detail, as in anna+news; + when empty, none for none
	CatchAll  string   `toml:"catch_all"` // local part of a domain's catch-all record; * when empty, none for none
	MaxDepth  int      `toml:"max_depth"` // steps from an address to a target; 10 when zero
	MaxNames  int      `toml:"max_names"` // names that an address may lead to; 200 when zero
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
	Filter       string         `toml:"filter"`           // with {name} for the account's name
	Canary       string         `toml:"canary"`           // an account that always exists: a server that does not show it is not believed
	Timeout      Duration       `toml:"timeout"`          // of a search; 3s when zero
	DialTimeout  Duration       `toml:"dial_timeout"`     // 3s when zero
	BindTimeout  Duration       `toml:"bind_timeout"`     // 5s when zero
	SCRAM        []string       `toml:"scram_mechanisms"` // with verify = "hash": those of which every account's hash holds the keys: SCRAM-SHA-256, SCRAM-SHA-1
	Hashers      int            `toml:"hashers"`          // with verify = "hash": passwords verified at the same time; one for each processor when zero
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
	Alias      string   `toml:"alias"`         // targets of an alias; - for none
	Only       string   `toml:"forward_only"`  // TRUE: nothing is kept of what is forwarded; - for none
	Changed    string   `toml:"password_time"` // when the password was changed; - for none
	Others     []string `toml:"others"`
}

// DirectoryFile is a directory in a text file of NWAuth records.
type DirectoryFile struct {
	Path string `toml:"path"`
}

// DirectoryCache is what a proxy remembers of the directory's answers.
type DirectoryCache struct {
	Entries    int      `toml:"entries"`       // 100,000 when zero
	Positive   Duration `toml:"positive"`      // 5m when zero
	Negative   Duration `toml:"negative"`      // 10s when zero
	Password   Duration `toml:"password"`      // how long a verified password is remembered, as a keyed hash; 5m when zero
	Stale      Duration `toml:"stale"`         // how long old answers route while the directory is away; 24h when zero
	StaleLogin Duration `toml:"stale_login"`   // … and log in, at most 15m; 15m when zero
	Bytes      int64    `toml:"bytes"`         // of memory, whichever bound is reached first; 128 MiB when zero
	Ahead      float64  `toml:"refresh_ahead"` // the last part of an answer's time in which using it asks again; 0.1 when zero
	Questions  int      `toml:"max_questions"` // asked of the directory at the same time; 64 when zero
}

func (k *checker) directory() {
	d := &k.c.Directory
	switch {
	case d.Kind == "":
		k.bad("directory.kind", "missing; say where accounts are looked up: tcpauth, ldap, file, or stack for several")
	case !k.oneOf("directory.kind", d.Kind, "tcpauth", "ldap", "file", "stack"):
	case d.Kind == "stack":
		k.stack(d.Members)
	default:
		if len(d.Members) > 0 {
			k.bad("directory.member[0]", "has no meaning beside kind = %q; stacked directories need kind = \"stack\"", d.Kind)
		}
		k.directorySource("directory", &d.Source)
	}
	if sl := time.Duration(d.Cache.StaleLogin); sl > 15*time.Minute {
		k.bad("directory.cache.stale_login", "%v is longer than 15m: an old answer may not log in longer than that", sl)
	}
	k.notNegative("directory.cache.entries", d.Cache.Entries)
	k.notNegative("directory.cache.bytes", int(d.Cache.Bytes))
	k.notNegative("directory.cache.max_questions", d.Cache.Questions)
	if a := d.Cache.Ahead; a < 0 || a >= 1 {
		k.bad("directory.cache.refresh_ahead", "%v is not a part of 1, such as 0.1", a)
	}
	k.resolve("directory.resolve", &d.Resolve)
}

func (k *checker) resolve(key string, r *Resolve) {
	for i, d := range r.Relayed {
		k.domain(fmt.Sprintf("%s.relayed[%d]", key, i), d)
		if slices.Contains(k.c.Cluster.Domains, d) {
			k.bad(fmt.Sprintf("%s.relayed[%d]", key, i), "%s is in cluster.domains: its users live here, or its mail goes elsewhere, not both", d)
		}
	}
	if strings.ContainsAny(r.Separator, "@,\" ") {
		k.bad(key+".separator", "%q cannot separate a detail: choose characters such as + or -, or none", r.Separator)
	}
	if strings.ContainsAny(r.CatchAll, "@,\" ") {
		k.bad(key+".catch_all", "%q is not a local part, such as * or catchall, or none", r.CatchAll)
	}
	k.notNegative(key+".max_depth", r.MaxDepth)
	k.notNegative(key+".max_names", r.MaxNames)
}

func (k *checker) stack(members []Member) {
	k.need("directory.member", len(members) > 0, "at least one [[directory.member]]")
	for i := range members {
		m := &members[i]
		key := fmt.Sprintf("directory.member[%d]", i)
		for j, d := range m.Domains {
			k.domain(fmt.Sprintf("%s.domains[%d]", key, j), d)
		}
		if m.Next && i == len(members)-1 {
			k.bad(key+".next", "there is no next member: this is the last")
		}
		if m.Kind == "" {
			k.bad(key+".kind", "missing; one of tcpauth, ldap, file")
		} else if k.oneOf(key+".kind", m.Kind, "tcpauth", "ldap", "file") {
			k.directorySource(key, &m.Source)
		}
	}
}

// directorySource checks one directory, of which the kind is known.
func (k *checker) directorySource(key string, s *Source) {
	switch s.Kind {
	case "tcpauth":
		key += ".tcpauth"
		k.need(key+".servers", len(s.TCPAuth.Servers) > 0, "at least one host:port of a tcpauthd")
		for i, a := range s.TCPAuth.Servers {
			k.dialAddress(fmt.Sprintf("%s.servers[%d]", key, i), a)
		}
		k.file(key+".ca_file", s.TCPAuth.CAFile)
		k.secret(key+".secret", &s.TCPAuth.Secret)
	case "ldap":
		k.ldap(key+".ldap", &s.LDAP)
	case "file":
		if k.need(key+".file.path", s.File.Path != "", "the file of NWAuth records") {
			k.file(key+".file.path", s.File.Path)
		}
	}
}

func (k *checker) ldap(key string, l *DirectoryLDAP) {
	k.need(key+".urls", len(l.URLs) > 0, "at least one ldap://, ldaps:// or ldapi:// URL")
	for i, u := range l.URLs {
		parsed, err := url.Parse(u)
		switch {
		case err != nil || !slices.Contains([]string{"ldap", "ldaps", "ldapi"}, parsed.Scheme):
			k.bad(fmt.Sprintf("%s.urls[%d]", key, i), "%q is not an ldap://, ldaps:// or ldapi:// URL", u)
		case parsed.Scheme == "ldaps" && l.StartTLS:
			k.bad(key+".starttls", "contradicts %s: ldaps:// is encrypted from the start; use ldap:// with starttls", u)
		}
	}
	k.oneOf(key+".preset", l.Preset, "switchyard", "laser", "zimbra", "ad", "ad-upn")
	k.oneOf(key+".verify", l.Verify, "bind", "hash")
	k.notNegative(key+".hashers", l.Hashers)
	if l.Hashers > 0 && l.Verify != "hash" {
		k.bad(key+".hashers", "has no meaning without verify = \"hash\": with a bind the LDAP server does the work")
	}
	for i, m := range l.SCRAM {
		mechanism := fmt.Sprintf("%s.scram_mechanisms[%d]", key, i)
		if m == "" {
			k.bad(mechanism, "is empty; name SCRAM-SHA-256 or SCRAM-SHA-1")
		}
		k.oneOf(mechanism, m, "SCRAM-SHA-256", "SCRAM-SHA-1")
	}
	if len(l.SCRAM) > 0 && l.Verify != "hash" {
		k.bad(key+".scram_mechanisms", "needs verify = \"hash\": the keys are in the hashes, which a bind does not show")
	}
	k.need(key+".base", l.Base != "", "the DN below which accounts are searched")
	if l.Filter != "" && !strings.Contains(l.Filter, "{name}") {
		k.bad(key+".filter", "must contain {name}: the account's name goes there")
	}
	if l.BindDN != "" && !l.BindPassword.IsSet() {
		k.bad(key+".bind_password", "missing beside bind_dn; write { file = \"…\" } or { env = \"…\" }")
	}
	if l.External && l.BindDN != "" {
		k.bad(key+".external", "contradicts bind_dn: with EXTERNAL the certificate says who binds; keep one of the two")
	}
	k.certificate(key+".certificate", l.Certificate)
	k.file(key+".ca_file", l.CAFile)
	k.secret(key+".bind_password", &l.BindPassword)
}
