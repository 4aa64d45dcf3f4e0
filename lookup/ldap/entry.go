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
	for _, name := range append([]string{o.Name, o.Home, o.Generation, o.Status, o.Quota, o.Forward}, o.Attributes...) {
		known := slices.ContainsFunc(out, func(s string) bool { return strings.EqualFold(s, name) })
		if name != none && !known {
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
	a.Status = lookup.Status(single(d.opts.Status))
	if v := single(d.opts.Generation); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		a.Generation = n
		errs = append(errs, named(d.opts.Generation, err))
	}
	if v := single(d.opts.Quota); v != "" {
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
	if d.opts.Forward != none {
		a.Forwards = e.GetEqualFoldAttributeValues(d.opts.Forward)
	}
	for _, attribute := range d.opts.Attributes {
		if values := e.GetEqualFoldAttributeValues(attribute); len(values) > 0 {
			if a.Attributes == nil {
				a.Attributes = make(map[string]string)
			}
			a.Attributes[strings.ToLower(attribute)] = strings.Join(values, "\n")
		}
	}
	return a, nil
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
