package sieve

import (
	"strings"
	"time"

	"switchyard/backend/sieve/syntax"
)

func (c *compiler) discard(n *syntax.Node) (step, error) {
	return stepFunc(func(r *run) error {
		r.result.implicit = false
		return nil
	}), c.params(n).end()
}

// flagsTag reads :flags (RFC 5232 §5).
func (p *params) flagsTag(to *[]text) func(Pos) error {
	return func(at Pos) (err error) {
		if err := p.needs(at, "flags", "imap4flags"); err != nil {
			return err
		}
		if *to, err = p.list("a list of flags"); *to == nil && err == nil {
			*to = []text{}
		}
		return err
	}
}

// flagsFor are an action's own flags, or the run's.
func (r *run) flagsFor(own []text) []string {
	if own == nil {
		return r.flags
	}
	return splitFlags(all(own, r))
}

func (c *compiler) keep(n *syntax.Node) (step, error) {
	p := c.params(n)
	var flags []text
	if err := p.tags(map[string]func(Pos) error{"flags": p.flagsTag(&flags)}); err != nil {
		return nil, err
	}
	return stepFunc(func(r *run) error {
		return r.add(Keep{Flags: r.flagsFor(flags), Header: r.header()}, true)
	}), p.end()
}

func (c *compiler) redirect(n *syntax.Node) (step, error) {
	p := c.params(n)
	copies := false
	err := p.tags(map[string]func(Pos) error{"copy": p.extension("copy", "copy", &copies)})
	if err != nil {
		return nil, err
	}
	to, err := p.text("an address")
	if err != nil {
		return nil, err
	}
	if to.constant() && !isAddress(to.source) {
		return nil, syntax.Errorf(n.Pos, "%q is no address", to.source)
	}
	return stepFunc(func(r *run) error {
		address := to.in(r)
		if !isAddress(address) {
			return failed("redirect: %q is no address", address)
		}
		n := 0
		for _, a := range r.result.Actions {
			if old, is := a.(Redirect); is {
				if n++; sameAddress(old.Address, bareAddress(address)) {
					r.result.implicit = r.result.implicit && copies
					return nil // once is enough
				}
			}
		}
		if n == MaxRedirects {
			return failed("more than %d redirects", MaxRedirects)
		}
		return r.add(Redirect{Address: bareAddress(address), Header: r.header()}, !copies)
	}), p.end()
}

// sameAddress compares addresses; only a domain is the same in any case
// (RFC 5321 §2.4).
func sameAddress(a, b string) bool {
	i, j := strings.LastIndexByte(a, '@'), strings.LastIndexByte(b, '@')
	return i == j && i > 0 && a[:i] == b[:j] && strings.EqualFold(a[i:], b[j:])
}

// extension is a tag without a value that an extension brings.
func (p *params) extension(tag, extension string, to *bool) func(Pos) error {
	return func(at Pos) error {
		*to = true
		return p.needs(at, tag, extension)
	}
}

// filing is fileinto with what extensions add to it.
type filing struct {
	mailbox        text
	copies, create bool
	flags          []text
	id, use        *text
}

func (c *compiler) fileInto(n *syntax.Node) (step, error) {
	p, f := c.params(n), &filing{}
	value := func(tag, extension string, to **text) func(Pos) error {
		return func(at Pos) error {
			if err := p.needs(at, tag, extension); err != nil {
				return err
			}
			t, err := p.text("a string")
			*to = &t
			return err
		}
	}
	err := p.tags(map[string]func(Pos) error{
		"copy":       p.extension("copy", "copy", &f.copies),
		"create":     p.extension("create", "mailbox", &f.create),
		"flags":      p.flagsTag(&f.flags),
		"mailboxid":  value("mailboxid", "mailboxid", &f.id),
		"specialuse": value("specialuse", "special-use", &f.use),
	})
	if err != nil {
		return nil, err
	}
	if f.id != nil && f.use != nil { // RFC 9042 §4
		return nil, syntax.Errorf(n.Pos, "fileinto takes :mailboxid or :specialuse, not both")
	}
	if f.mailbox, err = p.text("a mailbox"); err != nil {
		return nil, err
	}
	if f.mailbox.constant() && f.mailbox.source == "" {
		return nil, syntax.Errorf(n.Pos, "the mailbox has no name")
	}
	return f, p.end()
}

func (f *filing) run(r *run) error {
	name := f.mailbox.in(r)
	if name == "" {
		return failed("fileinto: the mailbox has no name")
	}
	// A mailbox that is found by its id or use goes before the name
	// (RFC 9042 §3, RFC 8579 §4).
	found, err := "", error(nil)
	if f.id != nil {
		found, err = r.world.MailboxOfID(f.id.in(r))
	} else if f.use != nil {
		found, err = r.world.MailboxOfUse(f.use.in(r))
	}
	if err != nil {
		return err
	}
	if found != "" {
		name = found
	}
	return r.add(FileInto{Mailbox: name, Create: f.create, Flags: r.flagsFor(f.flags), Header: r.header()}, !f.copies)
}

// reject is reject and ereject (RFC 5429).
func (c *compiler) reject(n *syntax.Node) (step, error) {
	p := c.params(n)
	reason, err := p.text("a reason")
	if err != nil {
		return nil, err
	}
	return stepFunc(func(r *run) error {
		return r.add(Reject{Reason: reason.in(r), Strict: n.Name == "ereject"}, true)
	}), p.end()
}

// flags is setflag, addflag and removeflag (RFC 5232 §3).
func (c *compiler) flags(n *syntax.Node) (step, error) {
	p := c.params(n)
	first, err := p.list("a list of flags")
	if err != nil {
		return nil, err
	}
	variable := ""
	list := first
	if p.more() {
		if !c.has("variables") {
			return nil, syntax.Errorf(n.Pos, "%s with a variable needs require %q", n.Name, "variables")
		}
		if len(first) != 1 || !first[0].constant() || !isVariable(first[0].source) {
			return nil, syntax.Errorf(n.Pos, "%s: the first of two arguments is a variable's name", n.Name)
		}
		variable = strings.ToLower(first[0].source)
		if list, err = p.list("a list of flags"); err != nil {
			return nil, err
		}
	}
	return stepFunc(func(r *run) error {
		given := all(list, r)
		switch n.Name {
		case "setflag":
			return r.setFlags(variable, splitFlags(given))
		case "addflag":
			return r.setFlags(variable, splitFlags(append(append([]string(nil), r.flagsOf(variable)...), given...)))
		}
		var kept []string
		gone := splitFlags(given)
		for _, f := range r.flagsOf(variable) {
			if !hasFold(gone, f) {
				kept = append(kept, f)
			}
		}
		return r.setFlags(variable, kept)
	}), p.end()
}

func hasFold(list []string, s string) bool {
	for _, one := range list {
		if strings.EqualFold(one, s) {
			return true
		}
	}
	return false
}

// The bounds of how long a sender is not answered again (RFC 5230 §4.1,
// RFC 6131 §2).
const (
	defaultVacation = 7 * 24 * time.Hour
	minVacation     = time.Minute
	maxVacation     = 90 * 24 * time.Hour
)

// reply is vacation.
type reply struct {
	period                time.Duration
	subject, from, handle *text
	addresses             []text
	mime                  bool
	reason                text
}

func (c *compiler) vacation(n *syntax.Node) (step, error) {
	p, v := c.params(n), &reply{period: defaultVacation}
	timed := false
	period := func(unit time.Duration, tag, extension string) func(Pos) error {
		return func(at Pos) error {
			if timed {
				return syntax.Errorf(at, "vacation takes :days or :seconds, not both")
			}
			timed = true
			if err := p.needs(at, tag, extension); err != nil {
				return err
			}
			count, err := p.number("a number")
			v.period = min(max(time.Duration(min(count, 1<<31))*unit, minVacation), maxVacation)
			return err
		}
	}
	value := func(to **text) func(Pos) error {
		return func(Pos) error {
			t, err := p.text("a string")
			*to = &t
			return err
		}
	}
	err := p.tags(map[string]func(Pos) error{
		"days": period(24*time.Hour, "days", "vacation"), "seconds": period(time.Second, "seconds", "vacation-seconds"),
		"subject": value(&v.subject), "from": value(&v.from), "handle": value(&v.handle), "mime": flag(&v.mime),
		"addresses": func(Pos) (err error) { v.addresses, err = p.list("a list of addresses"); return err },
	})
	if err != nil {
		return nil, err
	}
	if v.reason, err = p.text("a reason"); err != nil {
		return nil, err
	}
	if v.from != nil && v.from.constant() && !isAddress(v.from.source) {
		return nil, syntax.Errorf(n.Pos, "%q is no address", v.from.source)
	}
	return v, p.end()
}

// run answers the sender if RFC 5230 §4.5 and §4.6 let it.
func (v *reply) run(r *run) error {
	for _, a := range r.result.Actions {
		switch a.(type) {
		case Vacation:
			return failed("vacation is there twice")
		case Reject: // §4.7
			return failed("a message that is refused cannot have other actions")
		}
	}
	own := append(all(v.addresses, r), r.envelope.To)
	if !r.mayAnswer(own) {
		return nil
	}
	a := Vacation{To: r.envelope.From, Reason: v.reason.in(r), MIME: v.mime, Days: v.period}
	if v.subject != nil {
		a.Subject = v.subject.in(r)
	}
	if v.from != nil {
		if a.From = v.from.in(r); !isAddress(a.From) {
			a.From = ""
		}
	}
	if v.handle != nil {
		a.Handle = v.handle.in(r)
	} else { // §4.2: what is said makes the difference
		a.Handle = strings.Join([]string{a.Subject, a.From, a.Reason}, "\x00")
	}
	return r.add(a, false)
}

// mayAnswer reports whether the message may be answered by a machine: it names
// the recipient, it comes from a person, and not from a list or another machine.
func (r *run) mayAnswer(own []string) bool {
	from := strings.ToLower(r.envelope.From)
	local, _, _ := strings.Cut(from, "@")
	switch {
	case from == "", hasFold(own, from), local == "mailer-daemon", local == "listserv", local == "majordomo",
		strings.HasPrefix(local, "owner-"), strings.HasSuffix(local, "-request"), strings.HasSuffix(local, "-owner"), strings.HasSuffix(local, "-bounces"):
		return false
	}
	for _, f := range r.fields.list {
		name := strings.ToLower(f.name)
		switch {
		case strings.HasPrefix(name, "list-"), name == "x-loop":
			return false
		case name == "auto-submitted" && !strings.HasPrefix(strings.ToLower(f.bare()), "no"):
			return false
		case name == "precedence" && hasFold([]string{"bulk", "list", "junk"}, f.bare()):
			return false
		}
	}
	for _, name := range []string{"To", "Cc", "Bcc", "Resent-To", "Resent-Cc", "Resent-Bcc"} {
		for _, f := range r.fields.named(name) {
			for _, a := range addresses(f.bare()) {
				if hasFold(own, a) {
					return true
				}
			}
		}
	}
	return false
}

// set gives a variable a value (RFC 5229 §4).
func (c *compiler) set(n *syntax.Node) (step, error) {
	p := c.params(n)
	var modifiers [5]string // by precedence, the highest first: they apply in this order
	tags := make(map[string]func(Pos) error)
	for name, precedence := range map[string]int{
		"lower": 0, "upper": 0, "lowerfirst": 1, "upperfirst": 1, "quotewildcard": 2, "quoteregex": 2, "encodeurl": 3, "length": 4,
	} {
		tags[name] = func(at Pos) error {
			if modifiers[precedence] != "" {
				return syntax.Errorf(at, ":%s and :%s exclude each other", modifiers[precedence], name)
			}
			modifiers[precedence] = name
			return nil
		}
	}
	if err := p.tags(tags); err != nil {
		return nil, err
	}
	name, err := p.text("a variable's name")
	if err != nil {
		return nil, err
	}
	bare := strings.TrimPrefix(strings.ToLower(name.source), "global.")
	if !name.constant() || !isVariable(bare) {
		return nil, syntax.Errorf(n.Pos, "%q is no variable's name", name.source)
	}
	if bare != strings.ToLower(name.source) && !c.has("include") {
		return nil, syntax.Errorf(n.Pos, "global variables need require %q", "include")
	}
	v, err := p.text("a value")
	if err != nil {
		return nil, err
	}
	return stepFunc(func(r *run) error {
		s := v.in(r)
		for _, m := range modifiers {
			s = modified(s, m)
		}
		return r.setVariable(strings.ToLower(name.source), s)
	}), p.end()
}

// addHeader is addheader (RFC 5293 §4).
func (c *compiler) addHeader(n *syntax.Node) (step, error) {
	p := c.params(n)
	last := false
	if err := p.tags(map[string]func(Pos) error{"last": flag(&last)}); err != nil {
		return nil, err
	}
	name, err := p.text("a field's name")
	if err == nil {
		err = fieldName(n.Pos, name)
	}
	if err != nil {
		return nil, err
	}
	value, err := p.text("a value")
	if err != nil {
		return nil, err
	}
	return stepFunc(func(r *run) error {
		field := name.in(r)
		if !isFieldName(field) {
			return failed("addheader: %q is no name of a header field", field)
		}
		if !protected(field) && len(r.fields.list) < maxFields {
			r.fields = r.fields.add(field, encodeField(value.in(r)), last)
		}
		return nil
	}), p.end()
}

// protected fields are left alone: they say where the message has been
// (RFC 5293 §6).
func protected(field string) bool {
	return hasFold([]string{"Received", "Auto-Submitted", "Return-Path", "Delivered-To"}, field)
}

// deletion is deleteheader (RFC 5293 §5).
type deletion struct {
	index  uint64
	last   bool
	name   text
	values *matcher // nil: any value
}

func (c *compiler) deleteHeader(n *syntax.Node) (step, error) {
	p, d := c.params(n), &deletion{}
	m := &matcher{}
	tags := m.tags(p)
	tags["index"] = func(Pos) (err error) { d.index, err = p.number("a number"); return err }
	tags["last"] = flag(&d.last)
	if err := p.tags(tags); err != nil {
		return nil, err
	}
	if d.last && d.index == 0 {
		return nil, syntax.Errorf(n.Pos, ":last goes with :index")
	}
	var err error
	if d.name, err = p.text("a field's name"); err == nil {
		err = fieldName(n.Pos, d.name)
	}
	if err != nil {
		return nil, err
	}
	if p.more() {
		d.values = m
		if err := m.readKeys(p); err != nil {
			return nil, err
		}
	}
	return d, p.end()
}

func (d *deletion) run(r *run) error {
	name := d.name.in(r)
	if protected(name) {
		return nil
	}
	list := nth(r.fields.named(name), d.index, d.last)
	gone := make(map[*field]bool)
	for _, f := range list {
		if d.values != nil {
			hit, err := d.values.any(r, []string{f.value()})
			if err != nil {
				return err
			}
			if !hit {
				continue
			}
		}
		gone[f] = true
	}
	r.fields = r.fields.without(gone)
	return nil
}

// nth picks the field of a number, counted from one and with last from the end
// (RFC 5260 §6); zero picks all.
func nth(list []*field, index uint64, last bool) []*field {
	switch {
	case index == 0:
		return list
	case index > uint64(len(list)):
		return nil
	case last:
		index = uint64(len(list)) - index + 1
	}
	return list[index-1 : index]
}
