package message

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// The bounds of a description. What lies beyond them is there, byte for byte,
// but is described as one application/octet-stream part, or its field is left
// out of the description.
const (
	maxDepth    = 100
	maxParts    = 10000
	maxField    = 256 << 10 // bytes of one header field that are described
	maxKept     = 2 << 20   // bytes of all described fields of a message together
	maxBoundary = 1000      // RFC 2046 §5.1.1 allows 70
)

// Parse describes the message in the first size bytes of r. It reads them once,
// in order, and keeps no more in memory than the description and 64 KiB. The
// only errors are r's: a malformed message is described as well as it can be.
func Parse(r io.ReaderAt, size int64) (*Part, error) {
	p := &parser{scan: newScanner(r, 0, size)}
	root, _, err := p.entity(0, true, false)
	if err != nil {
		return nil, fmt.Errorf("read a message to parse it: %w", err)
	}
	return root, nil
}

type parser struct {
	scan   *scanner
	bounds []string // the boundaries of the open multiparts, outermost first
	parts  int
	kept   int
}

// edge is the line that ended an entity: a boundary line of one of the open
// multiparts, or the end of the message.
type edge struct {
	level   int // index in bounds; -1 at the end of the message
	closing bool
	end     int64 // where the entity before it ends: its line end is the boundary's
	lines   int64 // line feeds before end
}

// entity parses a header and a body. isMessage asks for the envelope; digest
// says that the entity is in a multipart/digest, whose parts are messages by
// default (RFC 2046 §5.1.5).
func (p *parser) entity(depth int, isMessage, digest bool) (*Part, edge, error) {
	p.parts++
	part := &Part{HeaderStart: p.scan.pos}
	fields, at, ended, err := p.header(isMessage)
	if err != nil {
		return nil, edge{}, err
	}
	part.describe(fields, isMessage, digest)
	if ended {
		part.BodyStart, part.End = at.end, at.end
		if part.Type == "multipart" || part.encapsulates() {
			part.asBytes()
		}
		return part, at, nil
	}
	part.BodyStart = p.scan.pos
	before := p.scan.lines
	at, err = p.body(part, depth)
	if err != nil {
		return nil, edge{}, err
	}
	part.End = max(at.end, part.BodyStart)
	part.Lines = max(at.lines-before, 0)
	return part, at, nil
}

// body parses what is behind the header, up to a boundary of an enclosing
// multipart.
func (p *parser) body(part *Part, depth int) (edge, error) {
	multi, inner := part.Type == "multipart", part.encapsulates()
	if (multi || inner) && (depth >= maxDepth || p.parts >= maxParts) {
		part.asBytes()
		return p.skip()
	}
	switch {
	case multi:
		return p.multipart(part, depth)
	case inner:
		child, at, err := p.entity(depth+1, true, false)
		part.Parts = []*Part{child}
		return at, err
	default:
		return p.skip()
	}
}

// multipart parses the parts. The preamble and the epilogue belong to the
// multipart's body, to no part.
func (p *parser) multipart(part *Part, depth int) (edge, error) {
	level := len(p.bounds)
	p.bounds = append(p.bounds, paramJoined(part.Params, "boundary"))
	at, err := p.skip()
	for err == nil && at.level == level && !at.closing {
		if p.parts >= maxParts {
			p.bounds = p.bounds[:level]
			return p.remainder(part)
		}
		var child *Part
		child, at, err = p.entity(depth+1, false, part.Subtype == "digest")
		part.Parts = append(part.Parts, child)
	}
	p.bounds = p.bounds[:level]
	if err == nil && at.level == level { // the closing boundary
		return p.skip()
	}
	return at, err
}

// remainder describes the rest of a multipart with too many parts.
func (p *parser) remainder(part *Part) (edge, error) {
	child := &Part{HeaderStart: p.scan.pos, BodyStart: p.scan.pos, Encoding: "binary"}
	child.asBytes()
	before := p.scan.lines
	at, err := p.skip()
	child.End = max(at.end, child.BodyStart)
	child.Lines = max(at.lines-before, 0)
	part.Parts = append(part.Parts, child)
	return at, err
}

// skip passes over lines up to a boundary.
func (p *parser) skip() (edge, error) {
	if len(p.bounds) == 0 {
		if err := p.scan.rest(); err != nil {
			return edge{}, err
		}
		return p.eof(), nil
	}
	for {
		nl, lines := p.scan.nl, p.scan.lines
		l, err := p.scan.next()
		if err == io.EOF {
			return p.eof(), nil
		}
		if err != nil {
			return edge{}, err
		}
		if at, ok := p.match(l, nl, lines); ok {
			return at, nil
		}
	}
}

func (p *parser) eof() edge {
	return edge{level: -1, end: p.scan.pos, lines: p.scan.lines}
}

// match tells whether a line is a boundary line of an open multipart: two
// hyphens, the boundary, two more at the close, and then nothing or white
// space (RFC 2046 §5.1.1; what follows white space is passed over). When
// boundaries begin alike the longest counts. nl and lines are the scanner's
// before the line.
func (p *parser) match(l line, nl int, lines int64) (edge, bool) {
	if len(l.text) < 3 || l.text[0] != '-' || l.text[1] != '-' {
		return edge{}, false
	}
	best := edge{level: -1}
	for level := len(p.bounds) - 1; level >= 0; level-- {
		b := p.bounds[level]
		if best.level >= 0 && len(b) <= len(p.bounds[best.level]) {
			continue
		}
		rest, ok := bytes.CutPrefix(l.text[2:], []byte(b))
		if !ok {
			continue
		}
		closed, closing := bytes.CutPrefix(rest, []byte("--"))
		if closing || len(rest) == 0 || isSpace(rest[0]) || rest[0] == '\r' {
			best = edge{level: level, closing: closing && (len(closed) == 0 || isSpace(closed[0]) || closed[0] == '\r')}
			if closing && !best.closing {
				best.level = -1
			}
		}
	}
	if best.level < 0 {
		return edge{}, false
	}
	best.end, best.lines = l.start-int64(nl), lines
	if nl > 0 {
		best.lines--
	}
	return best, true
}

// encapsulates reports whether the part's body is a message that is described
// too. One in base64 or quoted-printable, which RFC 2046 §5.2.1 forbids, is
// not: describe makes plain bytes of it.
func (part *Part) encapsulates() bool {
	return part.Type == "message" && (part.Subtype == "rfc822" || part.Subtype == "global")
}

// asBytes describes the part as bytes of unknown meaning.
func (part *Part) asBytes() {
	part.Type, part.Subtype, part.Params = "application", "octet-stream", nil
}

// describe fills in what the header says.
func (part *Part) describe(f fields, isMessage, digest bool) {
	part.Encoding = "7bit"
	if v, ok := f.get("content-transfer-encoding"); ok {
		if token := firstToken(v); token != "" {
			part.Encoding = strings.ToLower(token)
		}
	}
	part.describeType(f, digest)
	part.ID, _ = f.get("content-id")
	part.Description, _ = f.get("content-description")
	part.MD5, _ = f.get("content-md5")
	if v, ok := f.get("content-disposition"); ok {
		value, params := parseParams(v)
		part.Disposition = strings.ToLower(firstToken(value))
		if part.Disposition != "" {
			part.DispParams = params
		}
	}
	if v, ok := f.get("content-language"); ok {
		part.Language = tokens(v)
	}
	if v, ok := f.get("content-location"); ok {
		part.Location = strings.Join(strings.Fields(v), "")
	}
	if isMessage {
		part.Envelope = f.envelope()
	}
}

func (part *Part) describeType(f fields, digest bool) {
	part.Type, part.Subtype = "text", "plain"
	v, found := f.get("content-type")
	typ, sub, params := parseType(v)
	switch {
	case found && typ != "":
		part.Type, part.Subtype, part.Params = typ, sub, params
	case !found && digest:
		part.Type, part.Subtype = "message", "rfc822"
	default: // RFC 2045 §5.2
		part.Params = []Param{{"charset", "us-ascii"}}
	}
	if part.Type == "multipart" {
		if b := paramJoined(part.Params, "boundary"); b == "" || len(b) > maxBoundary {
			part.Type, part.Subtype = "text", "plain"
			part.Params = []Param{{"charset", "us-ascii"}}
		}
	}
	if part.encapsulates() && part.Encoding != "7bit" && part.Encoding != "8bit" && part.Encoding != "binary" {
		part.asBytes()
	}
}

func param(params []Param, name string) (string, bool) {
	for _, p := range params {
		if p.Name == name {
			return p.Value, true
		}
	}
	return "", false
}
