package search

import (
	"cmp"
	"context"
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

// fake is a user whose messages are nothing but envelopes.
type fake struct {
	backend.User
	roots map[backend.UID]*message.Part
	asked int
}

func (f *fake) Structure(_ context.Context, _ backend.GUID, uid backend.UID) (*message.Part, error) {
	f.asked++
	if root := f.roots[uid]; root != nil {
		return root, nil
	}
	return nil, backend.ErrNoMessage
}

// mailbox makes one of headers: "sent;subject;id;references;in-reply-to;from",
// sent in minutes.
func mailbox(headers []string) *Mailbox {
	f := &fake{roots: map[backend.UID]*message.Part{}}
	var list []backend.Message
	for i, h := range headers {
		w := append(strings.Split(h, ";"), "", "", "", "", "", "")
		e := &message.Envelope{Subject: w[1], MessageID: w[2], References: w[3], InReplyTo: w[4], From: message.ParseAddresses(w[5])}
		var minutes int
		if _, err := fmt.Sscan(w[0], &minutes); err == nil {
			e.Date = time.Unix(int64(minutes)*60, 0).UTC().Format(time.RFC1123Z)
		}
		uid := backend.UID(i + 1)
		f.roots[uid] = &message.Part{Envelope: e}
		list = append(list, backend.Message{UID: uid, GUID: backend.GUID{byte(i), byte(i >> 8), 1}, Size: int64(1000 - i%7), InternalDate: time.Unix(int64(i%5)*60, 0)})
	}
	return &Mailbox{User: f, Messages: backend.NewMessages(list), Cache: NewCache(0)}
}

func all(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func threads(t testing.TB, m *Mailbox, by syntax.ThreadOp) string {
	t.Helper()
	forest, err := m.Thread(t.Context(), all(m.Messages.Len()), by)
	if err != nil {
		t.Fatal(err)
	}
	return string(forest.Append(nil, func(i int) uint32 { return uint32(i + 1) }))
}

func TestThread(t *testing.T) {
	for name, c := range map[string]struct {
		headers             []string
		references, subject string
	}{
		"nothing":                    {nil, "", ""},
		"a chain":                    {[]string{"1;a;<1@x>", "2;Re: a;<2@x>;<1@x>", "3;Re: a;<3@x>;<1@x> <2@x>"}, "(1 2 3)", "(1 (2)(3))"},
		"a fork":                     {[]string{"1;a;<1@x>", "3;Re: a;<2@x>;<1@x>", "2;Re: a;<3@x>;<1@x>"}, "(1 (3)(2))", "(1 (3)(2))"},
		"in-reply-to, first id only": {[]string{"1;a;<1@x>", "2;b;<2@x>", "3;c;<3@x>;;<2@x> <1@x>"}, "(1)(2 3)", "(1)(2)(3)"},
		"references without an id":   {[]string{"1;a;<1@x>", "2;b;<2@x>;nonsense;<1@x>"}, "(1 2)", "(1)(2)"},
		"a missing parent":           {[]string{"1;a;<1@x>;<0@x>", "2;b;<2@x>;<0@x>"}, "((1)(2))", "(1)(2)"},
		"a missing parent of one":    {[]string{"1;a;<1@x>;<0@x>", "2;b;<2@x>"}, "(1)(2)", "(1)(2)"},
		"missing in the middle":      {[]string{"1;a;<1@x>", "2;b;<3@x>;<1@x> <2@x>", "3;c;<4@x>;<1@x> <2@x>"}, "(1 (2)(3))", "(1)(2)(3)"},
		"the same id twice":          {[]string{"1;a;<1@x>", "2;b;<1@x>", "3;c;<3@x>;<1@x>"}, "(1 3)(2)", "(1)(2)(3)"},
		"quoted ids":                 {[]string{"1;a;<\"1\"@x>", "2;b;<2@x>;<1@x>"}, "(1 2)", "(1)(2)"},
		"a loop":                     {[]string{"1;a;<1@x>;<2@x>", "2;b;<2@x>;<1@x>"}, "(2 1)", "(1)(2)"},
		"itself":                     {[]string{"1;a;<1@x>;<1@x>"}, "(1)", "(1)"},
		"a new parent":               {[]string{"1;a;<1@x>", "2;b;<2@x>;<1@x>", "3;c;<3@x>;<1@x> <2@x>", "4;d;<2b@x>;<2@x> <3@x>"}, "(1 2 3 4)", "(1)(2)(3)(4)"},
		"subjects: reply and not":    {[]string{"1;Re: a;<1@x>", "2;a;<2@x>"}, "(2 1)", "(1 2)"},
		"subjects: both replies":     {[]string{"1;Re: a;<1@x>", "2;Fwd: A;<2@x>", "3;re: a;<3@x>"}, "((1)(2)(3))", "(1 (2)(3))"},
		"subjects: neither":          {[]string{"1;a;<1@x>", "2;a;<2@x>", "3;[l] a;<3@x>", "4;Re: a"}, "((1)(2)(3)(4))", "(1 (2)(3)(4))"},
		"subjects: empty ones stay":  {[]string{"1;;<1@x>", "2;Re:;<2@x>"}, "(1)(2)", "(1 2)"},
		"two dummies":                {[]string{"1;a;<1@x>;<0@x>", "2;b;<2@x>;<0@x>", "3;a;<3@x>;<9@x>", "4;b;<4@x>;<9@x>"}, "((1)(2)(3)(4))", "(1 3)(2 4)"},
		"a dummy and a message":      {[]string{"1;a;<1@x>", "2;a;<2@x>;<0@x>", "3;b;<3@x>;<0@x>"}, "((1)(2)(3))", "(1 2)(3)"},
		"no date":                    {[]string{"9;a;<1@x>", ";b;<2@x>"}, "(2)(1)", "(2)(1)"},
		// RFC 5256 §4: siblings whose parent is not there, and sub-threads.
		"the RFC's": {[]string{"1;n;<2@x>", "2;s;<3@x>", "3;s;<6@x>;<3@x>", "4;s;<4@x>;<3@x> <6@x>", "5;s;<23@x>;<6@x> <4@x>", "6;s;<44@x>;<6@x>", "7;s;<7@x>;<44@x>", "8;s;<96@x>;<44@x> <7@x>"},
			"(1)(2 3 (4 5)(6 7 8))", "(1)(2 (3)(4)(5)(6)(7)(8))"},
	} {
		t.Run(name, func(t *testing.T) {
			m := mailbox(c.headers)
			if got := threads(t, m, syntax.ThreadReferences); got != c.references {
				t.Errorf("references: got %s, want %s", got, c.references)
			}
			if got := threads(t, m, syntax.ThreadOrderedSubject); got != c.subject {
				t.Errorf("subject: got %s, want %s", got, c.subject)
			}
		})
	}
}

// TestThreadModel compares random mailboxes with the RFC's words put into code
// as naively as can be.
func TestThreadModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 1000 {
		var headers []string
		n := 1 + random.IntN(12)
		for range n {
			var refs []string
			for range random.IntN(4) {
				refs = append(refs, fmt.Sprintf("<%d@x>", random.IntN(n+2)))
			}
			subject := []string{"", "a", "Re: a", "b", "Re: b", "[fwd: a]"}[random.IntN(6)]
			headers = append(headers, fmt.Sprintf("%d;%s;<%d@x>;%s", random.IntN(6), subject, random.IntN(n+2), strings.Join(refs, " ")))
		}
		m := mailbox(headers)
		if got, want := threads(t, m, syntax.ThreadReferences), naiveThreads(headers); got != want {
			t.Fatalf("got %s, want %s for\n%s", got, want, strings.Join(headers, "\n"))
		}
	}
}

// naive is a message or a dummy of the naive model.
type naive struct {
	seq, sent int // seq 0: a dummy
	base      string
	reply     bool
	parent    *naive
	kids      []*naive
}

func (n *naive) face() *naive {
	if n.seq == 0 {
		return n.kids[0].face()
	}
	return n
}

func (n *naive) under(a *naive) bool {
	for ; n != nil; n = n.parent {
		if n == a {
			return true
		}
	}
	return false
}

func sortNaive(list []*naive) {
	slices.SortStableFunc(list, func(a, b *naive) int {
		a, b = a.face(), b.face()
		return cmp.Or(cmp.Compare(a.sent, b.sent), cmp.Compare(a.seq, b.seq))
	})
}

func naiveThreads(headers []string) string {
	byID := map[string]*naive{}
	var nodes, messages []*naive
	for i, h := range headers {
		w := strings.Split(h, ";")
		n := &naive{seq: i + 1}
		fmt.Sscan(w[0], &n.sent)
		n.base, n.reply = message.BaseSubject(w[1])
		if byID[w[2]] == nil {
			byID[w[2]] = n
		}
		nodes, messages = append(nodes, n), append(messages, n)
	}
	for i, h := range headers {
		var last *naive
		for _, id := range strings.Fields(strings.Split(h, ";")[3]) {
			n := byID[id]
			if n == nil {
				n = &naive{}
				byID[id] = n
				nodes = append(nodes, n)
			}
			if last != nil && n.parent == nil && !last.under(n) {
				n.parent = last
			}
			last = n
		}
		messages[i].parent = nil
		if last != nil && !last.under(messages[i]) {
			messages[i].parent = last
		}
	}
	root := &naive{}
	for _, n := range nodes {
		if n.parent == nil {
			n.parent = root
		}
		n.parent.kids = append(n.parent.kids, n)
	}
	pruneNaive(root, root)
	for _, n := range root.kids {
		if n.seq == 0 {
			sortNaive(n.kids)
		}
	}
	sortNaive(root.kids)
	mergeNaive(root)
	var sortAll func(*naive)
	sortAll = func(n *naive) {
		for _, k := range n.kids {
			sortAll(k)
		}
		sortNaive(n.kids)
	}
	sortAll(root)
	var b strings.Builder
	for _, n := range root.kids {
		b.WriteString("(" + n.text() + ")")
	}
	return b.String()
}

func pruneNaive(root, n *naive) {
	for i := 0; i < len(n.kids); {
		k := n.kids[i]
		pruneNaive(root, k)
		switch {
		case k.seq != 0 || n == root && len(k.kids) > 1:
			i++
		default:
			n.kids = slices.Replace(n.kids, i, i+1, k.kids...)
			i += len(k.kids)
		}
	}
}

func mergeNaive(root *naive) {
	table := map[string]*naive{}
	subject := func(n *naive) string { return strings.ToUpper(n.face().base) }
	for _, n := range root.kids {
		t := table[subject(n)]
		if subject(n) != "" && (t == nil || t.seq != 0 && (n.seq == 0 || t.reply && !n.reply)) {
			table[subject(n)] = n
		}
	}
	for _, n := range slices.Clone(root.kids) {
		s := subject(n)
		t := table[s]
		if s == "" || t == n {
			continue
		}
		at := slices.Index(root.kids, n)
		switch {
		case t.seq == 0 && n.seq == 0:
			t.kids = append(t.kids, n.kids...)
		case t.seq == 0, n.reply && !t.reply:
			t.kids = append(t.kids, n)
		default:
			d := &naive{kids: []*naive{t, n}}
			root.kids[slices.Index(root.kids, t)] = d
			table[s] = d
		}
		root.kids = slices.Delete(root.kids, at, at+1)
	}
}

func (n *naive) text() string {
	s := ""
	if n.seq > 0 {
		s = fmt.Sprint(n.seq)
	}
	if len(n.kids) == 1 {
		return strings.TrimPrefix(s+" "+n.kids[0].text(), " ")
	}
	if s != "" && len(n.kids) > 0 {
		s += " "
	}
	for _, k := range n.kids {
		s += "(" + k.text() + ")"
	}
	return s
}

// TestThreadBounds holds that long chains and hostile ones take no long time
// and no deep stack.
func TestThreadBounds(t *testing.T) {
	const n = 10000
	chain := make([]string, n)
	hostile := make([]string, n)
	for i := range n {
		chain[i] = fmt.Sprintf("%d;s;<%d@x>;<%d@x>", i, i, i-1)
		hostile[i] = fmt.Sprintf("%d;s;<%d@x>;<%d@x> <%d@x>", i, i, i+1, (i*7919)%n)
	}
	begin := time.Now()
	if got := threads(t, mailbox(chain), syntax.ThreadReferences); strings.Count(got, "(") != 1 {
		t.Errorf("got %d threads and branches", strings.Count(got, "("))
	}
	if got := threads(t, mailbox(hostile), syntax.ThreadReferences); strings.Count(got, " ") == 0 {
		t.Error("nothing was linked")
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}
