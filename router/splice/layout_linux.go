package splice

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"unsafe"
)

// layout is where a *tls.Conn keeps its read buffers. They grow to a record
// each and are never given back (golang.org/issue/43563), which is most of what
// an idle TLS session costs. The offsets are looked up by name and type, so that
// a crypto/tls that is built differently keeps its buffers and nothing else
// happens.
type layout struct {
	known          bool
	rawInput, hand uintptr // bytes.Buffer
	input          uintptr // bytes.Reader into rawInput's memory
}

func findLayout() layout {
	t := reflect.TypeFor[tls.Conn]()
	var l layout
	l.known = true
	for _, f := range []struct {
		name string
		typ  reflect.Type
		at   *uintptr
	}{
		{"rawInput", reflect.TypeFor[bytes.Buffer](), &l.rawInput},
		{"hand", reflect.TypeFor[bytes.Buffer](), &l.hand},
		{"input", reflect.TypeFor[bytes.Reader](), &l.input},
	} {
		field, ok := t.FieldByName(f.name)
		if !ok || field.Type != f.typ || len(field.Index) != 1 {
			return layout{}
		}
		*f.at = field.Offset
	}
	return l
}

// release gives the read buffers back where they are empty. Nobody may be
// reading from c.
func (l layout) release(c *tls.Conn) {
	if !l.known {
		return
	}
	raw := (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(c), l.rawInput))
	hand := (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(c), l.hand))
	input := (*bytes.Reader)(unsafe.Add(unsafe.Pointer(c), l.input))
	if input.Len() == 0 && raw.Len() == 0 {
		input.Reset(nil)
		*raw = bytes.Buffer{}
	}
	if hand.Len() == 0 {
		*hand = bytes.Buffer{}
	}
}
