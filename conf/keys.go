package conf

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// keyLines maps every key of a document, as a dotted path with the indices of
// arrays of tables ("proxyd.listen[1].tls"), to its line.
func keyLines(data []byte) map[string]int {
	lines := make(map[string]int)
	counts := make(map[string]int) // elements seen of each array of tables
	table := ""
	var p unstable.Parser
	line := func(n *unstable.Node) int {
		off := int(n.Raw.Offset)
		if n.Raw.Length == 0 {
			off = int(p.Range(n.Data).Offset)
		}
		return 1 + bytes.Count(data[:min(off, len(data))], []byte("\n"))
	}
	// path joins a key's parts below prefix; array tables on the way stand for
	// their newest element.
	path := func(prefix string, it unstable.Iterator) (string, int) {
		full, at := prefix, 0
		for it.Next() {
			n := it.Node()
			if at == 0 {
				at = line(n)
			}
			if full != "" {
				full += "."
			}
			full += string(n.Data)
			if c := counts[full]; c > 0 && !it.IsLast() {
				full += fmt.Sprintf("[%d]", c-1)
			}
		}
		return full, at
	}
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table:
			var at int
			table, at = path("", e.Key())
			lines[table] = at
		case unstable.ArrayTable:
			name, at := path("", e.Key())
			counts[name]++
			table = fmt.Sprintf("%s[%d]", name, counts[name]-1)
			lines[table] = at
		case unstable.KeyValue:
			key, at := path(table, e.Key())
			lines[key] = at
		}
	}
	return lines
}

// nearestKey returns the known key that is most like the last part of an
// unknown one, among those allowed in the same table; "" when none is near.
func nearestKey(key []string) string {
	t := reflect.TypeFor[Config]()
	for _, part := range key[:max(len(key)-1, 0)] {
		f, ok := fieldByKey(t, part)
		if !ok {
			return ""
		}
		t = f
	}
	if t.Kind() != reflect.Struct || len(key) == 0 {
		return ""
	}
	unknown := key[len(key)-1]
	return nearest(unknown, keysOf(t))
}

// keysOf lists the keys of a table, those of embedded parts included.
func keysOf(t reflect.Type) (keys []string) {
	for f := range t.Fields() {
		if f.Anonymous {
			keys = append(keys, keysOf(f.Type)...)
		} else if name, ok := f.Tag.Lookup("toml"); ok {
			keys = append(keys, name)
		}
	}
	return keys
}

// fieldByKey finds the type behind a key, of its elements if it is an array.
func fieldByKey(t reflect.Type, key string) (reflect.Type, bool) {
	if t.Kind() != reflect.Struct {
		return nil, false
	}
	for f := range t.Fields() {
		if f.Anonymous {
			if found, ok := fieldByKey(f.Type, key); ok {
				return found, true
			}
		}
		if f.Tag.Get("toml") == key {
			if f.Type.Kind() == reflect.Slice {
				return f.Type.Elem(), true
			}
			return f.Type, true
		}
	}
	return nil, false
}

// nearest returns the word most like s, for mistyped values.
func nearest(s string, words []string) string {
	best, bestDistance := "", 1+max(2, len(s)/3)
	for _, w := range words {
		if d := distance(s, w); d < bestDistance {
			best, bestDistance = w, d
		}
	}
	return best
}

// distance is the Levenshtein distance between two words, in any case.
func distance(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
