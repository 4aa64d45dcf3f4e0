package message

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// version is the first byte of an encoded description.
const version = 2

// ErrEncoding: bytes that DecodePart was given are no description.
var ErrEncoding = errors.New("malformed message description")

// AppendBinary appends the description's encoding to dst. It is stable: equal
// descriptions encode to equal bytes.
func (part *Part) AppendBinary(dst []byte) []byte {
	return part.append(append(dst, version), 0)
}

// The bits that tell which rare fields follow.
const (
	hasID = 1 << iota
	hasDescription
	hasMD5
	hasDisposition
	hasLanguage
	hasLocation
	hasEnvelope
)

func (part *Part) append(dst []byte, base int64) []byte {
	dst = binary.AppendUvarint(dst, uint64(part.HeaderStart-base))
	dst = binary.AppendUvarint(dst, uint64(part.BodyStart-part.HeaderStart))
	dst = binary.AppendUvarint(dst, uint64(part.End-part.BodyStart))
	dst = binary.AppendUvarint(dst, uint64(part.Lines))
	dst = appendString(dst, part.Type)
	dst = appendString(dst, part.Subtype)
	dst = appendString(dst, part.Encoding)
	dst = appendParams(dst, part.Params)
	var bits byte
	for i, has := range []bool{part.ID != "", part.Description != "", part.MD5 != "", part.Disposition != "",
		len(part.Language) > 0, part.Location != "", part.Envelope != nil} {
		if has {
			bits |= 1 << i
		}
	}
	dst = append(dst, bits)
	for _, s := range []string{part.ID, part.Description, part.MD5, part.Disposition} {
		if s != "" {
			dst = appendString(dst, s)
		}
	}
	if part.Disposition != "" {
		dst = appendParams(dst, part.DispParams)
	}
	if len(part.Language) > 0 {
		dst = binary.AppendUvarint(dst, uint64(len(part.Language)))
		for _, l := range part.Language {
			dst = appendString(dst, l)
		}
	}
	if part.Location != "" {
		dst = appendString(dst, part.Location)
	}
	if part.Envelope != nil {
		dst = part.Envelope.append(dst)
	}
	dst = binary.AppendUvarint(dst, uint64(len(part.Parts)))
	for _, p := range part.Parts {
		dst = p.append(dst, part.HeaderStart)
	}
	return dst
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendParams(dst []byte, params []Param) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(params)))
	for _, p := range params {
		dst = appendString(appendString(dst, p.Name), p.Value)
	}
	return dst
}

func (e *Envelope) append(dst []byte) []byte {
	for _, s := range []string{e.Date, e.Subject, e.InReplyTo, e.MessageID, e.References} {
		dst = appendString(dst, s)
	}
	for _, list := range [][]Address{e.From, e.Sender, e.ReplyTo, e.To, e.Cc, e.Bcc} {
		dst = binary.AppendUvarint(dst, uint64(len(list)))
		for _, a := range list {
			kind := byte(0)
			if a.Group {
				kind = 1
			}
			dst = append(dst, kind)
			dst = appendString(appendString(appendString(dst, a.Name), a.Mailbox), a.Host)
		}
	}
	return dst
}

// DecodePart decodes what AppendBinary wrote. The result shares nothing with
// data. What it allocates is in proportion to len(data). Errors: ErrEncoding.
func DecodePart(data []byte) (*Part, error) {
	if len(data) == 0 || data[0] != version {
		return nil, fmt.Errorf("%w: unknown version", ErrEncoding)
	}
	d := &decoder{data: string(data[1:])}
	part := d.part(0, 0)
	if d.bad || len(d.data) > 0 {
		return nil, ErrEncoding
	}
	return part, nil
}

type decoder struct {
	data string
	bad  bool
}

func (d *decoder) fail() { d.bad, d.data = true, "" }

func (d *decoder) uvarint() uint64 {
	var v uint64
	for i := 0; i < len(d.data) && i < binary.MaxVarintLen64; i++ {
		c := d.data[i]
		if c < 0x80 {
			if i == 9 && c > 1 {
				break
			}
			d.data = d.data[i+1:]
			return v | uint64(c)<<(7*i)
		}
		v |= uint64(c&0x7f) << (7 * i)
	}
	d.fail()
	return 0
}

// offset reads a number of bytes and adds it to base.
func (d *decoder) offset(base int64) int64 {
	n := d.uvarint()
	if n > 1<<62 || int64(n) > 1<<62-base {
		d.fail()
		return base
	}
	return base + int64(n)
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.data)) {
		d.fail()
		return ""
	}
	s := d.data[:n]
	d.data = d.data[n:]
	return s
}

// count reads a number of items of at least size bytes each.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.data)/size) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) params() []Param {
	n := d.count(2)
	if n == 0 {
		return nil
	}
	out := make([]Param, n)
	for i := range out {
		out[i] = Param{d.string(), d.string()}
	}
	return out
}

func (d *decoder) part(base int64, depth int) *Part {
	if depth > maxDepth+1 {
		d.fail()
		return nil
	}
	p := &Part{}
	p.HeaderStart = d.offset(base)
	p.BodyStart = d.offset(p.HeaderStart)
	p.End = d.offset(p.BodyStart)
	p.Lines = d.offset(0)
	p.Type, p.Subtype, p.Encoding = d.string(), d.string(), d.string()
	p.Params = d.params()
	d.rare(p)
	n := d.count(minPart)
	if n > 0 {
		p.Parts = make([]*Part, n)
		for i := range p.Parts {
			p.Parts[i] = d.part(p.HeaderStart, depth+1)
		}
	}
	return p
}

// minPart is the length of the shortest encoded part.
const minPart = 10

func (d *decoder) rare(p *Part) {
	if d.data == "" {
		d.fail()
		return
	}
	bits := d.data[0]
	d.data = d.data[1:]
	for _, s := range []struct {
		bit byte
		to  *string
	}{{hasID, &p.ID}, {hasDescription, &p.Description}, {hasMD5, &p.MD5}, {hasDisposition, &p.Disposition}} {
		if bits&s.bit != 0 {
			*s.to = d.string()
		}
	}
	if bits&hasDisposition != 0 {
		p.DispParams = d.params()
	}
	if bits&hasLanguage != 0 {
		p.Language = make([]string, d.count(1))
		for i := range p.Language {
			p.Language[i] = d.string()
		}
	}
	if bits&hasLocation != 0 {
		p.Location = d.string()
	}
	if bits&hasEnvelope != 0 {
		p.Envelope = d.envelope()
	}
}

func (d *decoder) envelope() *Envelope {
	e := &Envelope{Date: d.string(), Subject: d.string(), InReplyTo: d.string(), MessageID: d.string(), References: d.string()}
	for _, list := range []*[]Address{&e.From, &e.Sender, &e.ReplyTo, &e.To, &e.Cc, &e.Bcc} {
		n := d.count(4)
		if n == 0 {
			continue
		}
		*list = make([]Address, n)
		for i := range *list {
			if d.data == "" {
				d.fail()
				return e
			}
			group := d.data[0] == 1
			d.data = d.data[1:]
			(*list)[i] = Address{Group: group, Name: d.string(), Mailbox: d.string(), Host: d.string()}
		}
	}
	return e
}
