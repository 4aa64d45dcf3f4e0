package ldap

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"switchyard/lookup"
)

// none is the attribute name for what a directory does not have.
const none = "-"

// wanted lists the attributes to ask for. RFC 4511 §4.5.1.8: nothing else is
// sent then, least of all the hash of a password.
func wanted(o Options) []string {
	var out []string
	names := []string{o.Name, o.Home, o.Generation, o.Quota, o.Alias, o.ForwardOnly, o.DeliveryOption, o.PasswordTime}
	for _, several := range []string{o.Status, o.Forward} {
		names = append(names, strings.Fields(several)...)
	}
	for _, name := range append(names, o.Attributes...) {
		known := slices.ContainsFunc(out, func(s string) bool { return strings.EqualFold(s, name) })
		if name != none && name != "" && !known {
			out = append(out, name)
		}
	}
	return out
}

// account reads an entry. Whatever makes no sense is an error: a value that is
// guessed at would send mail to the wrong place. It returns lookup.ErrAbsent
// when the entry is another name's, found because servers compare loosely:
// RFC 4518 drops soft hyphens and folds compatibility characters.
func (d *Directory) account(e *ldap.Entry, name string) (lookup.Account, error) {
	names := e.GetEqualFoldAttributeValues(d.opts.Name)
	if len(names) == 0 {
		return lookup.Account{}, fmt.Errorf("%s is missing or may not be read", d.opts.Name)
	}
	if !slices.ContainsFunc(names, func(v string) bool { return strings.ToLower(v) == name }) {
		return lookup.Account{}, lookup.ErrAbsent
	}
	a := lookup.Account{Name: name}
	var errs []error
	single := func(attribute string) string {
		value, err := d.single(e, attribute)
		errs = append(errs, err)
		return value
	}
	a.Home = single(d.opts.Home)
	status, err := d.statusIn(e)
	a.Status = status
	errs = append(errs, err)
	if v := single(d.opts.Generation); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		a.Generation = n
		errs = append(errs, named(d.opts.Generation, err))
	}
	if v := single(d.opts.Quota); v != "" && !slices.Contains(d.opts.NoQuota, v) {
		n, err := strconv.ParseInt(v, 10, 64)
		if err == nil && n < 0 {
			err = fmt.Errorf("%d is less than zero", n)
		}
		a.Quota = n
		errs = append(errs, named(d.opts.Quota, err))
	}
	if err := errors.Join(errs...); err != nil {
		return lookup.Account{}, err
	}
	a.PasswordMark = strings.Join(d.values(e, d.opts.PasswordTime), " ")
	d.delivery(e, &a)
	for _, attribute := range d.opts.Attributes {
		set(&a, attribute, strings.Join(e.GetEqualFoldAttributeValues(attribute), "\n"))
	}
	return a, nil
}

// delivery reads what becomes of the account's mail beside its home.
func (d *Directory) delivery(e *ldap.Entry, a *lookup.Account) {
	for _, attribute := range d.forward {
		for _, value := range d.values(e, attribute) {
			a.Forwards = append(a.Forwards, addresses(value)...)
		}
	}
	only := slices.ContainsFunc(d.values(e, d.opts.ForwardOnly), func(v string) bool { return strings.EqualFold(v, "TRUE") })
	if d.opts.DeliveryOption != "" {
		ways := strings.Fields(strings.ToLower(strings.Join(d.values(e, d.opts.DeliveryOption), " ")))
		if !slices.Contains(ways, "forward") {
			a.Forwards = nil
		}
		only = only || !slices.Contains(ways, "mailbox")
	}
	if only && len(a.Forwards) > 0 {
		set(a, "fwdonly", "1")
	}
	set(a, "alias", strings.Join(d.values(e, d.opts.Alias), ","))
}

// set gives the account an attribute, unless there is no value.
func set(a *lookup.Account, label, value string) {
	if value == "" {
		return
	}
	if a.Attributes == nil {
		a.Attributes = make(map[string]string)
	}
	a.Attributes[strings.ToLower(label)] = value
}

// addresses takes a list with commas apart. One with a quoted part may have
// commas inside and is left whole.
func addresses(value string) []string {
	if strings.Contains(value, `"`) {
		return []string{value}
	}
	var out []string
	for address := range strings.SplitSeq(value, ",") {
		if address = strings.TrimSpace(address); address != "" {
			out = append(out, address)
		}
	}
	return out
}

// statusIn reads the attributes of the status; the one that allows least counts.
func (d *Directory) statusIn(e *ldap.Entry) (lookup.Status, error) {
	var out lookup.Status
	for _, attribute := range d.status {
		value, err := d.single(e, attribute)
		if err != nil {
			return "", err
		}
		s, err := d.opts.statusOf(value)
		if err != nil {
			return "", named(attribute, err)
		}
		if out == "" || strictness(s) > strictness(out) {
			out = s
		}
	}
	return out, nil
}

// statusOf translates a value.
func (o *Options) statusOf(value string) (lookup.Status, error) {
	value = strings.ToLower(value)
	if o.DisabledBits != 0 && value != "" {
		bits, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return "", err
		}
		if bits&o.DisabledBits != 0 {
			return lookup.StatusSuspended, nil
		}
		return lookup.StatusOK, nil
	}
	if s, ok := o.StatusWords[value]; ok {
		return s, nil
	}
	return lookup.Status(value), nil
}

// strictness grows with what a status forbids.
func strictness(s lookup.Status) int {
	switch {
	case s.MayLogin():
		return 0
	case s.MayReceive():
		return 1
	}
	return 2
}

// values returns the values of an attribute.
func (d *Directory) values(e *ldap.Entry, attribute string) []string {
	if attribute == none {
		return nil
	}
	return e.GetEqualFoldAttributeValues(attribute)
}

// single returns the value of an attribute that may have one at most.
func (d *Directory) single(e *ldap.Entry, attribute string) (string, error) {
	if attribute == none {
		return "", nil
	}
	values := e.GetEqualFoldAttributeValues(attribute)
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	}
	return "", fmt.Errorf("%s has %d values: %q", attribute, len(values), values)
}

func named(attribute string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", attribute, err)
}
