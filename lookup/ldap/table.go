package ldap

import (
	"hash/maphash"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"switchyard/lookup"
)

// maxTable is how many accounts a feed remembers, of some 150 bytes each. What
// happens to others is told of less exactly.
const maxTable = 1_000_000

// table is what a feed remembers of the accounts, so that it can say more of a
// change than the protocol does: a deletion comes with a UUID only.
type table struct {
	dir     *Directory
	changed func(lookup.Change)
	seed    maphash.Seed
	records map[[16]byte]record

	round uint32 // of the refresh that goes on or was the last
	whole bool   // it is of the whole content and not of what changed
	live  bool   // it is over: what comes is new
}

// record is an account.
type record struct {
	names    string // those it has, with newlines between
	sessions uint64 // hash of what bears on who may be logged in
	rest     uint64 // hash of everything else
	evidence bool   // a change of the password would be seen in sessions
	round    uint32
}

func newTable(d *Directory, changed func(lookup.Change)) *table {
	return &table{dir: d, changed: changed, seed: maphash.MakeSeed(), records: make(map[[16]byte]record)}
}

// begin says that a refresh begins.
func (t *table) begin(whole bool) {
	t.round++
	t.whole, t.live = whole, false
}

// entry looks at an account of which the server says that it is present,
// added, modified or deleted.
func (t *table) entry(id [16]byte, state ldap.ControlSyncStateState, e *ldap.Entry) {
	old, had := t.records[id]
	switch {
	case state == ldap.SyncStateDelete:
		delete(t.records, id)
		switch {
		case had:
			t.tell(old.names, true)
		case t.live:
			t.changed(lookup.Change{}) // somebody
		}
	case state == ldap.SyncStatePresent:
		if had {
			old.round = t.round
			t.records[id] = old
		}
	case e != nil:
		r := t.record(e)
		full := len(t.records) >= maxTable
		if had || !full {
			t.records[id] = r
		}
		switch {
		case had:
			t.compare(old, r)
		case t.live:
			t.tell(r.names, full || state != ldap.SyncStateAdd)
		}
	}
}

// compare tells of what is different.
func (t *table) compare(old, r record) {
	if old.names != r.names {
		t.tell(old.names, true)
		t.tell(r.names, true)
		return
	}
	evidence := old.evidence || r.evidence
	switch {
	case old.sessions != r.sessions:
		t.tell(r.names, true)
	case !evidence && t.live:
		t.tell(r.names, true) // it may be the password
	case old.rest != r.rest:
		t.tell(r.names, false)
	}
}

// refreshed says that the refresh is over. Accounts that it did not mention are
// gone, if it was of the whole content or of all that are present.
func (t *table) refreshed(present bool) {
	if t.live {
		return
	}
	if t.whole || present {
		t.sweep()
	}
	t.live = true
	t.dir.opts.Logger.Info("feed of changes is whole")
	t.changed(lookup.Change{})
}

// sweep drops the accounts that the refresh did not mention. One that is there
// under another UUID is the same one on another server.
func (t *table) sweep() {
	var gone []record
	for id, r := range t.records {
		if r.round != t.round {
			delete(t.records, id)
			gone = append(gone, r)
		}
	}
	if len(gone) == 0 {
		return
	}
	here := make(map[string]record, len(t.records))
	for _, r := range t.records {
		here[r.names] = r
	}
	for _, old := range gone {
		if r, ok := here[old.names]; ok {
			t.compare(old, r)
		} else {
			t.tell(old.names, true)
		}
	}
}

func (t *table) tell(names string, sessions bool) {
	for name := range strings.SplitSeq(names, "\n") {
		if name != "" {
			t.changed(lookup.Change{Name: name, Sessions: sessions})
		}
	}
}

// record makes a record of an entry.
func (t *table) record(e *ldap.Entry) record {
	o := &t.dir.opts
	r := record{round: t.round}
	var names []string
	for _, value := range e.GetEqualFoldAttributeValues(o.Name) {
		if name, err := lookup.CleanName(value, ""); err == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	r.names = strings.Join(slices.Compact(names), "\n")
	ofSessions := append([]string{o.Home, o.Generation, o.Hash, o.PasswordTime}, t.dir.status...)
	for _, a := range e.Attributes {
		var h maphash.Hash
		h.SetSeed(t.seed)
		h.WriteString(strings.ToLower(a.Name))
		for _, v := range a.Values {
			h.WriteByte(0)
			h.WriteString(v)
		}
		// A sum, since attributes come in any order.
		if !slices.ContainsFunc(ofSessions, func(s string) bool { return strings.EqualFold(s, a.Name) }) {
			r.rest += h.Sum64()
			continue
		}
		r.sessions += h.Sum64()
		if strings.EqualFold(a.Name, o.Hash) || strings.EqualFold(a.Name, o.PasswordTime) {
			r.evidence = true
		}
	}
	return r
}
