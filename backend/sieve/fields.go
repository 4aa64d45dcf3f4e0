package sieve

import (
	"slices"
	"strings"

	"switchyard/internal/message"
)

// maxFields bounds the fields of a header that a script sees, and maxHeader
// their bytes: those behind are not there for it, but stay in the message.
const (
	maxFields = 1000
	maxHeader = 256 << 10
)

// field is one field of the message's header.
type field struct {
	name string
	raw  string // as it stands, with its line ends
}

// value returns the field's value, unfolded, decoded and trimmed.
func (f *field) value() string {
	_, v, _ := strings.Cut(f.raw, ":")
	return message.DecodeHeader(strings.Trim(strings.NewReplacer("\r", "", "\n", "").Replace(v), " \t"))
}

// bare is value without its encoded words decoded.
func (f *field) bare() string {
	_, v, _ := strings.Cut(f.raw, ":")
	return strings.Trim(strings.NewReplacer("\r", "", "\n", "").Replace(v), " \t")
}

// fields is the message's header, as editheader has left it. It never changes:
// an edit makes another.
type fields struct {
	list   []field
	edited bool
	end    int64 // where the header that was read ends in the message
}

func readFields(m Mail) (*fields, error) {
	f := &fields{end: m.Root.HeaderStart}
	size := 0
	err := message.ReadHeader(m.Body, m.Root, func(one message.Field) bool {
		size += len(one.Raw)
		if one.Name == "" || size > maxHeader || len(f.list) == maxFields {
			return false
		}
		f.list = append(f.list, field{one.Name, string(one.Raw)})
		f.end = one.End
		return true
	})
	return f, err
}

// named returns the fields of a name, in order.
func (f *fields) named(name string) (out []*field) {
	for i := range f.list {
		if strings.EqualFold(f.list[i].name, name) {
			out = append(out, &f.list[i])
		}
	}
	return out
}

// add returns the header with a field more, at its start or end.
func (f *fields) add(name, value string, last bool) *fields {
	one := field{name, name + ": " + value + "\r\n"}
	list := slices.Clone(f.list)
	if last {
		list = append(list, one)
	} else {
		list = slices.Insert(list, 0, one)
	}
	return &fields{list: list, edited: true, end: f.end}
}

// without returns the header without some fields.
func (f *fields) without(gone map[*field]bool) *fields {
	if len(gone) == 0 {
		return f
	}
	out := &fields{edited: true, end: f.end}
	for i := range f.list {
		if !gone[&f.list[i]] {
			out.list = append(out.list, f.list[i])
		}
	}
	return out
}

// text is the header's beginning, up to where it was read.
func (f *fields) text() string {
	var b strings.Builder
	for i := range f.list {
		b.WriteString(f.list[i].raw)
	}
	return b.String()
}
