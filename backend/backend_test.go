package backend

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// uids lists a list's UIDs.
func uids(m Messages) []UID {
	var out []UID
	for _, msg := range m.All() {
		out = append(out, msg.UID)
	}
	return out
}

// TestMessagesAgainstModel makes random changes to a list and to a plain
// slice, and compares them, and every Diff between two moments.
func TestMessagesAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var list Messages
		var model []Message
		next, seq := UID(1), ModSeq(1)
		type moment struct {
			list  Messages
			model []Message
		}
		past := []moment{{}}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			seq++
			switch rapid.IntRange(0, 2).Draw(t, "op") {
			case 0:
				var more []Message
				for range rapid.IntRange(0, 2*chunkLen+10).Draw(t, "n") {
					more = append(more, Message{UID: next, ModSeq: seq, Flags: someFlags(t)})
					next += UID(rapid.IntRange(1, 3).Draw(t, "gap"))
				}
				list = list.Append(more...)
				model = append(slices.Clone(model), more...)
			case 1:
				model = slices.Clone(model)
				var changed []Message
				for i := range model {
					if rapid.IntRange(0, 9).Draw(t, "pick") == 0 {
						model[i].ModSeq, model[i].Flags = seq, someFlags(t)
						changed = append(changed, model[i])
					}
				}
				changed = append(changed, Message{UID: next + 5})
				list = list.Update(changed)
			case 2:
				var gone []UID
				var kept []Message
				for _, m := range model {
					if rapid.IntRange(0, 4).Draw(t, "pick") == 0 {
						gone = append(gone, m.UID)
					} else {
						kept = append(kept, m)
					}
				}
				list = list.Remove(append(gone, next+7))
				model = kept
			}
			if list.Len() != len(model) {
				t.Fatalf("length %d, want %d", list.Len(), len(model))
			}
			for i := range model {
				if got := *list.At(i); got.UID != model[i].UID || got.ModSeq != model[i].ModSeq {
					t.Fatalf("at %d: got %v, want %v", i, got, model[i])
				}
				if pos, ok := list.Find(model[i].UID); !ok || pos != i {
					t.Fatalf("find %d: got %d %v, want %d", model[i].UID, pos, ok, i)
				}
			}
			if pos, ok := list.Find(next); ok || pos != len(model) {
				t.Fatalf("find what is not there: got %d %v", pos, ok)
			}
			checkSummary(t, list, model)
			checkSelect(t, list, model, next)
			past = append(past, moment{list, model})
		}
		for _, p := range past {
			d := Diff(p.list, list)
			rebuilt := p.list.Remove(d.Removed).Update(d.Changed).Append(d.Added...)
			if !slices.Equal(uids(rebuilt), uids(list)) {
				t.Fatalf("the difference does not rebuild the list")
			}
			for i, m := range rebuilt.All() {
				if m.ModSeq != model[i].ModSeq {
					t.Fatalf("the difference missed the change of %d", m.UID)
				}
			}
		}
	})
}

// checkSelect selects some UIDs, there or not.
func checkSelect(t *rapid.T, list Messages, model []Message, end UID) {
	uids := rapid.SliceOfNDistinct(rapid.Uint32Range(1, uint32(end)+3), 0, 40, rapid.ID).Draw(t, "uids")
	if rapid.Bool().Draw(t, "all") {
		uids = uids[:0]
		for i := range model {
			uids = append(uids, uint32(model[i].UID))
		}
	}
	slices.Sort(uids)
	var want, got, ask []UID
	for _, uid := range uids {
		ask = append(ask, UID(uid))
		if slices.ContainsFunc(model, func(m Message) bool { return m.UID == UID(uid) }) {
			want = append(want, UID(uid))
		}
	}
	for _, m := range list.Select(ask) {
		got = append(got, m.UID)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("select %v: got %v, want %v", ask, got, want)
	}
}

// someFlags draws flags, most often \Seen.
func someFlags(t *rapid.T) []string {
	return rapid.SampledFrom([][]string{
		{FlagSeen}, {FlagSeen}, {FlagSeen}, {FlagSeen}, {FlagSeen}, {FlagSeen}, {FlagSeen, "a"}, {FlagDeleted, FlagSeen, "b", "c"}, nil,
	}).Draw(t, "flags")
}

// checkSummary compares what the list knows of its messages with a look at all
// of them.
func checkSummary(t *rapid.T, list Messages, model []Message) {
	unseen := slices.IndexFunc(model, func(m Message) bool { return !slices.Contains(m.Flags, FlagSeen) })
	if pos, ok := list.FirstUnseen(); ok != (unseen >= 0) || ok && pos != unseen {
		t.Fatalf("first unseen: got %d %v, want %d", pos, ok, unseen)
	}
	var keywords []string
	for i := range model {
		for _, f := range model[i].Flags {
			if f[0] != '\\' {
				keywords = append(keywords, f)
			}
		}
	}
	slices.Sort(keywords)
	if got := list.Keywords(); !slices.Equal(got, slices.Compact(keywords)) {
		t.Fatalf("keywords %q, want %q", got, keywords)
	}
}

func TestDeliveryID(t *testing.T) {
	const mail = "Subject: x\r\nMessage-ID: <1@example.test>\r\n\r\nbody\r\n"
	id := func(from, to, text string, trace int) ([32]byte, bool) {
		t.Helper()
		id, ok, err := DeliveryID(from, to, strings.NewReader(text), int64(len(text)), int64(trace))
		if err != nil {
			t.Fatal(err)
		}
		return id, ok
	}
	base, ok := id("a@x", "b@y", mail, 0)
	if !ok {
		t.Fatal("no id for a message with a Message-ID")
	}
	const trace = "Received: from somewhere\r\n"
	if again, _ := id("a@x", "b@y", trace+mail, len(trace)); again != base {
		t.Error("the proxy's trace header changes the id")
	}
	for name, other := range map[string][3]string{
		"sender":    {"c@x", "b@y", mail},
		"recipient": {"a@x", "c@y", mail},
		"bytes":     {"a@x", "b@y", mail + "."},
		"boundary":  {"a@xb", "@y", mail},
	} {
		if got, _ := id(other[0], other[1], other[2], 0); got == base {
			t.Errorf("another %s, the same id", name)
		}
	}
	for name, c := range map[string]struct {
		text string
		want bool
	}{
		"folded":           {"Message-ID:\r\n <1@x>\r\n\r\n", true},
		"odd case":         {"mEssage-iD : <1@x>\n\n", true},
		"empty":            {"Message-ID:\r\nTo: x\r\n\r\n", false},
		"in the body":      {"To: x\r\n\r\nMessage-ID: <1@x>\r\n", false},
		"none":             {"To: x\r\n\r\n", false},
		"nothing":          {"", false},
		"behind long line": {"X: " + strings.Repeat("y", 10000) + "\r\nMessage-ID: <1@x>\r\n\r\n", true},
		"carriage returns": {strings.Repeat("\r", 9000) + "\r\n\r\n", false},
	} {
		if _, got := id("a@x", "b@y", c.text, 0); got != c.want {
			t.Errorf("%s: has an id: got %v, want %v", name, got, c.want)
		}
	}
}

func FuzzDeliveryID(f *testing.F) {
	f.Add([]byte("Message-ID: <1@x>\r\n\r\n"), int64(0))
	f.Fuzz(func(t *testing.T, b []byte, trace int64) {
		if _, _, err := DeliveryID("a", "b", bytes.NewReader(b), int64(len(b)), trace); err != nil {
			t.Fatal(err)
		}
	})
}

func TestWatch(t *testing.T) {
	stops := 0
	w := NewWatch(func() { stops++ })
	w.Signal()
	w.Signal()
	<-w.C
	select {
	case <-w.C:
		t.Error("two signals were not one")
	default:
	}
	w.Close()
	w.Close()
	if stops != 1 {
		t.Errorf("stopped %d times", stops)
	}
}
