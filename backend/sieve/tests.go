package sieve

import (
	"net/mail"
	"strings"
	"time"

	"switchyard/backend/sieve/syntax"
	"switchyard/internal/message"
)

// addresses returns the addresses of a field's value, those that can be read.
func addresses(v string) (out []string) {
	list, err := (&mail.AddressParser{}).ParseList(v)
	if err == nil {
		for _, a := range list {
			out = append(out, a.Address)
		}
		return out
	}
	for _, a := range message.ParseAddresses(v) {
		if a.Mailbox != "" && a.Host != "" {
			out = append(out, a.Mailbox+"@"+a.Host)
		}
	}
	return out
}

func (c *compiler) size(n *syntax.Node) (test, error) {
	p := c.params(n)
	var over, under bool
	if err := p.tags(map[string]func(Pos) error{"over": flag(&over), "under": flag(&under)}); err != nil {
		return nil, err
	}
	if over == under {
		return nil, syntax.Errorf(n.Pos, "size takes :over or :under")
	}
	limit, err := p.number("a number")
	if err != nil {
		return nil, err
	}
	return testFunc(func(r *run) (bool, error) {
		size := uint64(r.mail.Size)
		return over && size > limit || under && size < limit, nil
	}), p.end()
}

func (c *compiler) exists(n *syntax.Node) (test, error) {
	p := c.params(n)
	names, err := p.fieldNames()
	if err != nil {
		return nil, err
	}
	return testFunc(func(r *run) (bool, error) {
		for _, name := range all(names, r) {
			if len(r.fields.named(name)) == 0 {
				return false, nil
			}
		}
		return true, nil
	}), p.end()
}

func (p *params) fieldNames() ([]text, error) {
	names, err := p.list("a list of field names")
	if err != nil {
		return nil, err
	}
	for _, t := range names {
		if err := fieldName(p.n.Pos, t); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// place is which of several fields is meant (RFC 5260 §6).
type place struct {
	index uint64
	last  bool
}

func (l *place) tags(p *params, tags map[string]func(Pos) error) {
	tags["index"] = func(at Pos) (err error) {
		if err := p.needs(at, "index", "index"); err != nil {
			return err
		}
		if l.index, err = p.number("a number"); err == nil && l.index == 0 {
			return syntax.Errorf(at, ":index counts from one")
		}
		return err
	}
	tags["last"] = p.extension("last", "index", &l.last)
}

func (l *place) check(n *syntax.Node) error {
	if l.last && l.index == 0 {
		return syntax.Errorf(n.Pos, ":last goes with :index")
	}
	return nil
}

func (c *compiler) header(n *syntax.Node) (test, error) {
	p, m, at := c.params(n), &matcher{}, place{}
	tags := m.tags(p)
	at.tags(p, tags)
	if err := p.tags(tags); err != nil {
		return nil, err
	}
	if err := at.check(n); err != nil {
		return nil, err
	}
	names, err := p.fieldNames()
	if err != nil {
		return nil, err
	}
	if err := m.readKeys(p); err != nil {
		return nil, err
	}
	return testFunc(func(r *run) (bool, error) {
		var values []string
		for _, name := range all(names, r) {
			for _, f := range nth(r.fields.named(name), at.index, at.last) {
				values = append(values, f.value())
			}
		}
		return m.any(r, values)
	}), p.end()
}

// addressPart takes a part of an address (RFC 5228 §2.7.4, RFC 5233 §4).
type addressPart string

// tags adds those of the parts.
func (a *addressPart) tags(p *params, tags map[string]func(Pos) error) {
	*a = "all"
	chosen := false
	for _, name := range []string{"all", "localpart", "domain", "user", "detail"} {
		tags[name] = func(at Pos) error {
			if chosen {
				return syntax.Errorf(at, "%s takes one part of the address", p.n.Name)
			}
			chosen, *a = true, addressPart(name)
			if name == "user" || name == "detail" {
				return p.needs(at, name, "subaddress")
			}
			return nil
		}
	}
}

// of returns the part; ok is false for a detail that is not there.
func (a addressPart) of(address string) (part string, ok bool) {
	at := strings.LastIndexByte(address, '@')
	local, domain := address, ""
	if at >= 0 {
		local, domain = address[:at], address[at+1:]
	}
	user, detail, found := strings.Cut(local, "+")
	switch a {
	case "localpart":
		return local, true
	case "domain":
		return domain, true
	case "user":
		return user, true
	case "detail":
		return detail, found
	default:
		return address, true
	}
}

func (a addressPart) each(list []string) (out []string) {
	for _, one := range list {
		if part, ok := a.of(one); ok {
			out = append(out, part)
		}
	}
	return out
}

func (c *compiler) address(n *syntax.Node) (test, error) {
	p, m, at := c.params(n), &matcher{}, place{}
	var which addressPart
	tags := m.tags(p)
	at.tags(p, tags)
	which.tags(p, tags)
	if err := p.tags(tags); err != nil {
		return nil, err
	}
	if err := at.check(n); err != nil {
		return nil, err
	}
	names, err := p.fieldNames()
	if err != nil {
		return nil, err
	}
	if err := m.readKeys(p); err != nil {
		return nil, err
	}
	return testFunc(func(r *run) (bool, error) {
		var list []string
		for _, name := range all(names, r) {
			for _, f := range nth(r.fields.named(name), at.index, at.last) {
				list = append(list, addresses(f.bare())...)
			}
		}
		return m.any(r, which.each(list))
	}), p.end()
}

// envelope looks at how the message came (RFC 5228 §5.4).
func (c *compiler) envelope(n *syntax.Node) (test, error) {
	p, m := c.params(n), &matcher{}
	var which addressPart
	tags := m.tags(p)
	which.tags(p, tags)
	if err := p.tags(tags); err != nil {
		return nil, err
	}
	parts, err := p.list("from or to")
	if err != nil {
		return nil, err
	}
	for _, t := range parts {
		if t.constant() && !hasFold([]string{"from", "to"}, t.source) {
			return nil, syntax.Errorf(n.Pos, "the envelope has from and to, no %q", t.source)
		}
	}
	if err := m.readKeys(p); err != nil {
		return nil, err
	}
	return testFunc(func(r *run) (bool, error) {
		var list []string
		for _, part := range all(parts, r) {
			switch strings.ToLower(part) {
			case "from":
				list = append(list, r.envelope.From)
			case "to":
				list = append(list, r.envelope.To)
			}
		}
		if m.kind == count { // a null sender is none (RFC 5231 §6)
			list = without(list, "")
		}
		return m.any(r, which.each(list))
	}), p.end()
}

func without(list []string, s string) (out []string) {
	for _, one := range list {
		if one != s {
			out = append(out, one)
		}
	}
	return out
}

func (c *compiler) hasFlag(n *syntax.Node) (test, error) {
	p, m := c.params(n), &matcher{}
	if err := p.tags(m.tags(p)); err != nil {
		return nil, err
	}
	var variables []string
	if len(p.rest) > 1 {
		if !c.has("variables") {
			return nil, syntax.Errorf(n.Pos, "hasflag with variables needs require %q", "variables")
		}
		list, err := p.list("names of variables")
		if err != nil {
			return nil, err
		}
		for _, t := range list {
			if !t.constant() || !isVariable(t.source) {
				return nil, syntax.Errorf(n.Pos, "%q is no variable's name", t.source)
			}
			variables = append(variables, strings.ToLower(t.source))
		}
	}
	if err := m.readKeys(p); err != nil {
		return nil, err
	}
	return testFunc(func(r *run) (bool, error) {
		flags := r.flags
		if variables != nil {
			flags = nil
			for _, v := range variables {
				flags = append(flags, r.flagsOf(v)...)
			}
		}
		if m.kind == count {
			return m.any(r, flags)
		}
		// A key may be a list of flags itself: one of them is enough.
		for _, f := range flags {
			for i, k := range all(m.keys, r) {
				for _, one := range strings.Fields(k) {
					if hit, err := m.one(r, i, f, one); hit || err != nil {
						return hit, err
					}
				}
			}
		}
		return false, nil
	}), p.end()
}

func (c *compiler) stringTest(n *syntax.Node) (test, error) {
	p, m := c.params(n), &matcher{}
	if err := p.tags(m.tags(p)); err != nil {
		return nil, err
	}
	source, err := p.list("a list of strings")
	if err != nil {
		return nil, err
	}
	if err := m.readKeys(p); err != nil {
		return nil, err
	}
	return testFunc(func(r *run) (bool, error) {
		values := all(source, r)
		if m.kind == count { // empty strings do not count (RFC 5229 §5)
			values = without(values, "")
		}
		return m.any(r, values)
	}), p.end()
}

func (c *compiler) environment(n *syntax.Node) (test, error) {
	p, m := c.params(n), &matcher{}
	if err := p.tags(m.tags(p)); err != nil {
		return nil, err
	}
	name, err := p.text("an item's name")
	if err != nil {
		return nil, err
	}
	if err := m.readKeys(p); err != nil {
		return nil, err
	}
	return testFunc(func(r *run) (bool, error) {
		v, known := r.env.item(strings.ToLower(name.in(r)))
		if !known { // RFC 5183 §4: no match, whatever the key
			return false, nil
		}
		return m.any(r, []string{v})
	}), p.end()
}

// item is one of RFC 5183 §4.1.
func (e *Environment) item(name string) (string, bool) {
	switch name {
	case "domain":
		return e.Domain, true
	case "host":
		return e.Host, true
	case "location":
		return "MDA", true
	case "name":
		return e.Name, true
	case "phase":
		return "during", true
	case "remote-host":
		return e.RemoteHost, e.RemoteHost != ""
	case "remote-ip":
		return e.RemoteIP, e.RemoteIP != ""
	case "version":
		return e.Version, true
	}
	return "", false
}

// The bounds of duplicate's memory (RFC 7352 §3.3).
const (
	defaultDuplicate = 7 * 24 * time.Hour
	maxDuplicate     = 30 * 24 * time.Hour
)

func (c *compiler) duplicate(n *syntax.Node) (test, error) {
	p := c.params(n)
	var handle, header, unique *text
	last, keep := false, defaultDuplicate
	value := func(to **text) func(Pos) error {
		return func(Pos) error {
			t, err := p.text("a string")
			*to = &t
			return err
		}
	}
	err := p.tags(map[string]func(Pos) error{
		"handle": value(&handle), "header": value(&header), "uniqueid": value(&unique), "last": flag(&last),
		"seconds": func(Pos) error {
			count, err := p.number("a number")
			keep = min(max(time.Duration(min(count, 1<<31))*time.Second, time.Second), maxDuplicate)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	if header != nil && unique != nil {
		return nil, syntax.Errorf(n.Pos, "duplicate takes :header or :uniqueid, not both")
	}
	return testFunc(func(r *run) (bool, error) {
		id := ""
		switch {
		case unique != nil:
			id = unique.in(r)
		case header != nil:
			if list := r.fields.named(header.in(r)); len(list) > 0 {
				id = list[0].bare()
			}
		default:
			if list := r.fields.named("Message-ID"); len(list) > 0 {
				id = list[0].bare()
			}
		}
		if id == "" {
			return false, nil
		}
		of := ""
		if handle != nil {
			of = handle.in(r)
		}
		return r.world.Seen(of+"\x00"+id, keep, last)
	}), p.end()
}

func (c *compiler) mailboxExists(n *syntax.Node) (test, error) {
	return c.everyName(n, func(r *run, name string) (bool, error) { return r.world.MailboxExists(name) })
}

func (c *compiler) mailboxIDExists(n *syntax.Node) (test, error) {
	return c.everyName(n, func(r *run, id string) (bool, error) {
		name, err := r.world.MailboxOfID(id)
		return name != "", err
	})
}

// everyName is a test that holds when it does for every name.
func (c *compiler) everyName(n *syntax.Node, holds func(*run, string) (bool, error)) (test, error) {
	p := c.params(n)
	names, err := p.list("a list of strings")
	if err != nil {
		return nil, err
	}
	return testFunc(func(r *run) (bool, error) {
		for _, name := range all(names, r) {
			if hit, err := holds(r, name); !hit || err != nil {
				return false, err
			}
		}
		return true, nil
	}), p.end()
}

// specialUseExists (RFC 8579 §3) asks for uses, of a mailbox when one is named.
func (c *compiler) specialUseExists(n *syntax.Node) (test, error) {
	p := c.params(n)
	var mailbox *text
	if len(p.rest) > 1 {
		t, err := p.text("a mailbox")
		if err != nil {
			return nil, err
		}
		mailbox = &t
	}
	uses, err := p.list("a list of special uses")
	if err != nil {
		return nil, err
	}
	return testFunc(func(r *run) (bool, error) {
		for _, use := range all(uses, r) {
			name, err := r.world.MailboxOfUse(use)
			if err != nil {
				return false, err
			}
			if name == "" || mailbox != nil && name != mailbox.in(r) {
				return false, nil
			}
		}
		return true, nil
	}), p.end()
}
