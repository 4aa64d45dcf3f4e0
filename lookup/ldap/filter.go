package ldap

import (
	"errors"
	"fmt"
	"strings"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// placeholder stands for the account's name in a filter.
const placeholder = "{name}"

// filter is a search filter, cut at its placeholders when it is parsed, so that
// what is put in is never looked at for placeholders.
type filter []string

// probe has what could end or change an assertion if it were not escaped, and
// what escaping leaves alone but only a value may contain.
const probe = `*)(|(x=y:dn:=\00` + "\x00"

// parseFilter checks that a template is a filter and that the placeholder
// stands where only a value can be: then no name changes the filter's shape.
func parseFilter(template string) (filter, error) {
	f := filter(strings.Split(template, placeholder))
	if len(f) == 1 {
		return nil, fmt.Errorf("filter %q has no %s", template, placeholder)
	}
	plain, err := ldap.CompileFilter(f.of("x"))
	if err != nil {
		return nil, fmt.Errorf("filter %q: %w", template, err)
	}
	probed, err := ldap.CompileFilter(f.of(probe))
	// The library takes some nonsense for a filter whose value it does not
	// unescape: then a name would not be looked for as it is.
	if err != nil || !sameShape(plain, probed) || strings.Count(values(probed), probe) < len(f)-1 {
		return nil, fmt.Errorf("filter %q: %w", template, errors.New(placeholder+" is not in the place of a value"))
	}
	return f, nil
}

// of puts a name in, escaped as RFC 4515 §3 says.
func (f filter) of(name string) string {
	return strings.Join(f, ldap.EscapeFilter(name))
}

// any is a filter for the accounts of all names.
func (f filter) any() (string, error) {
	all := strings.Join(f, "*")
	if _, err := ldap.CompileFilter(all); err != nil {
		return "", fmt.Errorf("filter %q: %w", all, err)
	}
	return all, nil
}

// sameShape reports whether two filters are the same but for the length and
// bytes of their values.
func sameShape(a, b *ber.Packet) bool {
	if a.Tag != b.Tag || a.ClassType != b.ClassType || a.TagType != b.TagType || len(a.Children) != len(b.Children) {
		return false
	}
	if isAssertion(a) && a.Children[0].Data.String() != b.Children[0].Data.String() {
		return false // another attribute
	}
	for i := range a.Children {
		if !sameShape(a.Children[i], b.Children[i]) {
			return false
		}
	}
	return true
}

// values joins the leaves of a filter, with a separator that no attribute has
// and no name that is looked up.
func values(p *ber.Packet) string {
	if len(p.Children) == 0 {
		return p.Data.String() + "\x00\x00separator\x00\x00"
	}
	var b strings.Builder
	for _, c := range p.Children {
		b.WriteString(values(c))
	}
	return b.String()
}

// isAssertion reports whether p compares an attribute, named by its first
// child, with a value.
func isAssertion(p *ber.Packet) bool {
	switch p.Tag {
	case ldap.FilterEqualityMatch, ldap.FilterSubstrings, ldap.FilterGreaterOrEqual, ldap.FilterLessOrEqual, ldap.FilterApproxMatch:
		return p.ClassType == ber.ClassContext && len(p.Children) > 0
	}
	return false
}
