package search

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"switchyard/backend"
	"switchyard/backend/imap/syntax"
	"switchyard/internal/message"
)

// TestSortModel compares the order with one that is made message by message.
func TestSortModel(t *testing.T) {
	random := rand.New(rand.NewPCG(rand.Uint64(), 1))
	for range 300 {
		var headers []string
		for range random.IntN(30) {
			sent := fmt.Sprint(random.IntN(5))
			if random.IntN(5) == 0 {
				sent = ""
			}
			headers = append(headers, fmt.Sprintf("%s;%s;;;;%s", sent, []string{"", "b", "Re: a", "B", "á", "=?utf-8?q?=C3=81?="}[random.IntN(6)],
				[]string{"", "x@a", "Y <x@b>", "y@a", "=?utf-8?q?Z?= <a@a>"}[random.IntN(5)]))
		}
		m := mailbox(headers)
		var by []syntax.SortKey
		for range 1 + random.IntN(3) {
			op := []syntax.SortOp{syntax.SortArrival, syntax.SortDate, syntax.SortSize, syntax.SortSubject, syntax.SortFrom, syntax.SortDisplayFrom}[random.IntN(6)]
			by = append(by, syntax.SortKey{Op: op, Reverse: random.IntN(2) == 0})
		}
		got, err := m.Sort(t.Context(), all(len(headers)), by)
		if err != nil {
			t.Fatal(err)
		}
		want := all(len(headers))
		slices.SortStableFunc(want, func(a, b int) int {
			for _, key := range by {
				r := naiveCompare(m, key.Op, a, b)
				if key.Reverse {
					r = -r
				}
				if r != 0 {
					return r
				}
			}
			return 0
		})
		if !slices.Equal(got, want) {
			t.Fatalf("%v: got %v, want %v for\n%s", by, got, want, strings.Join(headers, "\n"))
		}
	}
}

func naiveCompare(m *Mailbox, op syntax.SortOp, a, b int) int {
	x, y := m.Messages.At(a), m.Messages.At(b)
	e, f := m.User.(*fake).roots[x.UID].Envelope, m.User.(*fake).roots[y.UID].Envelope
	first := func(e *message.Envelope, display bool) string {
		switch {
		case len(e.From) == 0:
			return ""
		case !display:
			return message.Fold(e.From[0].Mailbox)
		case e.From[0].Name != "":
			return message.Fold(message.DecodeHeader(e.From[0].Name))
		}
		return message.Fold(e.From[0].Mailbox + "@" + e.From[0].Host)
	}
	switch op {
	case syntax.SortArrival:
		return x.InternalDate.Compare(y.InternalDate)
	case syntax.SortSize:
		return cmp.Compare(x.Size, y.Size)
	case syntax.SortSubject:
		s, _ := message.BaseSubject(e.Subject)
		u, _ := message.BaseSubject(f.Subject)
		return cmp.Compare(message.Fold(s), message.Fold(u))
	case syntax.SortFrom, syntax.SortDisplayFrom:
		return cmp.Compare(first(e, op == syntax.SortDisplayFrom), first(f, op == syntax.SortDisplayFrom))
	default:
		sent := func(e *message.Envelope, msg *backend.Message) time.Time {
			if d, ok := message.ParseDate(e.Date); ok {
				return d.Moment
			}
			return msg.InternalDate
		}
		return sent(e, x).Compare(sent(f, y))
	}
}

// TestGone holds that a message that another session has expunged is left out.
func TestGone(t *testing.T) {
	m := mailbox([]string{"3;c", "2;b", "1;a"})
	delete(m.User.(*fake).roots, 2)
	got, err := m.Sort(t.Context(), all(3), []syntax.SortKey{{Op: syntax.SortSize}, {Op: syntax.SortSubject}, {Op: syntax.SortDate}})
	if err != nil || !slices.Equal(got, []int{2, 0}) || !m.Gone {
		t.Errorf("got %v, %v, gone %v", got, err, m.Gone)
	}
	if got := threads(t, m, syntax.ThreadReferences); got != "(3)(1)" {
		t.Errorf("got %s", got)
	}
	found, err := m.Find(t.Context(), syntax.Key{Op: syntax.InHeader, Field: "SUBJECT", Envelope: true})
	if err != nil || !slices.Equal(found, []int{0, 2}) {
		t.Errorf("got %v, %v", found, err)
	}
}

// TestCache holds that facts are computed once, that a full cache forgets the
// oldest first, and that its size has a bound.
func TestCache(t *testing.T) {
	m := mailbox([]string{"1;a;<1@x>", "2;b;<2@x>;<1@x>"})
	for range 3 {
		threads(t, m, syntax.ThreadReferences)
	}
	if asked := m.User.(*fake).asked; asked != 2 {
		t.Errorf("asked %d times", asked)
	}
	c := NewCache(20 * factsCost)
	id := func(i int) backend.GUID { return backend.GUID{byte(i), byte(i >> 8)} }
	for i := range 1000 {
		c.put(id(i), &facts{day: int32(i)})
		if _, ok := c.get(id(0)); !ok { // what is used stays
			t.Fatalf("the first was forgotten at %d", i)
		}
		if n := len(c.young) + len(c.old); n > 20 {
			t.Fatalf("holds %d entries", n)
		}
	}
	if f, ok := c.get(id(999)); !ok || f.day != 999 {
		t.Errorf("got %v, %v", f, ok)
	}
	if _, ok := c.get(id(500)); ok {
		t.Error("remembers everything")
	}
}

// TestLongTexts holds that texts that are too long to keep are compared all
// the same, and that short ones are found as in the envelope.
func TestLongTexts(t *testing.T) {
	long := strings.Repeat("x", 2*maxText)
	m := mailbox([]string{"1;" + long + "b", "2;Re: " + long + "a", "3;Zürich;;;;=?utf-8?q?=C3=84da?= <ada@x>", "4"})
	for range 2 { // cold and warm
		got, err := m.Sort(t.Context(), all(4), []syntax.SortKey{{Op: syntax.SortSubject}})
		if err != nil || !slices.Equal(got, []int{3, 1, 0, 2}) {
			t.Fatalf("got %v, %v", got, err)
		}
		for _, c := range []struct {
			field, text string
			want        []int
		}{{"SUBJECT", "xa", []int{1}}, {"SUBJECT", "zÜr", []int{2}}, {"SUBJECT", "", []int{0, 1, 2}}, {"FROM", "äda <ADA@", []int{2}}, {"FROM", "", []int{2}}, {"FROM", "bob", nil}} {
			found, err := m.Find(t.Context(), syntax.Key{Op: syntax.InHeader, Field: c.field, Text: c.text, Envelope: true})
			if err != nil || !slices.Equal(found, c.want) {
				t.Errorf("%s %q: got %v, %v, want %v", c.field, c.text, found, err, c.want)
			}
		}
	}
}
