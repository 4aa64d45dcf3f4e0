package upstream

import (
	"maps"
	"testing"

	"pgregory.net/rapid"
)

func offersSet(t *testing.T, backends ...Backend) *Set {
	t.Helper()
	s, err := New(backends, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// hear lets a node say what it offers.
func hear(s *Set, backend, node string, offer Offer, behind bool) {
	e := s.top.Load().backends[backend].node(node).services[IMAP]
	if e.offers.learn(offer, behind) {
		s.commons.forget(IMAP)
	}
}

// TestCapabilities: nothing is promised that one backend has not been heard to
// offer, and what is promised follows what they say.
func TestCapabilities(t *testing.T) {
	s := offersSet(t,
		Backend{Name: "b1", Nodes: []Node{node("b1a", "192.0.2.1:143"), node("b1b", "192.0.2.2:143")}},
		Backend{Name: "b2", Nodes: []Node{node("b2a", "192.0.2.3:143")}},
		Backend{Name: "pop", Nodes: []Node{{Name: "p", Services: map[Service]Endpoint{POP3: {Address: "192.0.2.4:110"}}}}},
	)
	expect := func(why string, want Offer) {
		t.Helper()
		got, known := s.Capabilities(IMAP)
		if known != (want != nil) || !maps.Equal(got, want) {
			t.Errorf("%s: got %v, %v, want %v", why, got, known, want)
		}
	}
	expect("nobody was heard", nil)
	hear(s, "b1", "b1a", Offer{"LITERAL+": "", "ID": "", "AUTH=PLAIN": ""}, false)
	expect("one was not heard", nil)
	hear(s, "b2", "b2a", Offer{"LITERAL-": "", "ID": "", "AUTH=PLAIN": "", "AUTH=SCRAM-SHA-256": ""}, false)
	expect("both were heard", Offer{"ID": "", "AUTH=PLAIN": ""})
	hear(s, "b2", "b2a", Offer{"LITERAL+": ""}, true)
	expect("behind its login one says another thing", Offer{"LITERAL+": "", "AUTH=PLAIN": ""})
	hear(s, "b1", "b1b", Offer{"AUTH=PLAIN": ""}, false)
	expect("the peer lacks something", Offer{"AUTH=PLAIN": ""})
	hear(s, "b1", "b1b", Offer{"LITERAL+": "", "AUTH=PLAIN": ""}, false)
	expect("and was mended", Offer{"LITERAL+": "", "AUTH=PLAIN": ""})
	if err := s.Update([]Backend{{Name: "b2", Nodes: []Node{node("b2a", "192.0.2.3:143")}}}); err != nil {
		t.Fatal(err)
	}
	expect("the other backend has gone", Offer{"LITERAL+": "", "AUTH=PLAIN": "", "AUTH=SCRAM-SHA-256": ""})
	if offer, heard := s.Offers("b1", IMAP); heard {
		t.Errorf("b1 has gone and offers %v", offer)
	}
}

// TestShared: of two parameters what is true for both.
func TestShared(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"1000", "2000", "1000"}, {"0", "500", "500"}, {"", "500", "500"}, {"0", "", ""}, {"PLAIN LOGIN", "LOGIN CRAM-MD5", "LOGIN"},
		{"x", "", ""}, {"RCPTMAX=100", "RCPTMAX=50", "RCPTMAX=50"},
		{"100 2026-01-02T15:04:05Z", "90 2026-01-02T15:04:09Z", "90 2026-01-02T15:04:05Z"}, {"same one", "same one", "same one"},
	} {
		for _, swap := range []bool{false, true} {
			a, b := c.a, c.b
			if swap {
				a, b = b, a
			}
			if got, ok := shared(a, b); !ok || got != c.want && !(c.want == "" && got == "0") {
				t.Errorf("%q and %q: got %q, %v, want %q", a, b, got, ok, c.want)
			}
		}
	}
	if got, ok := shared("PLAIN", "LOGIN"); ok {
		t.Errorf("two lists without a common word: got %q", got)
	}
}

// TestCapabilitiesModel: whatever nodes say in whatever order, a capability is
// promised exactly when all backends were heard and all heard nodes have it.
func TestCapabilitiesModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := New([]Backend{
			{Name: "b1", Nodes: []Node{node("b1a", "192.0.2.1:143"), node("b1b", "192.0.2.2:143")}},
			{Name: "b2", Nodes: []Node{node("b2a", "192.0.2.3:143")}},
		}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		model := make(map[string]Offer)
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			at := rapid.SampledFrom([]string{"b1a", "b1b", "b2a"}).Draw(t, "node")
			offer := Offer{"IMAP4REV1": ""}
			for _, name := range rapid.SliceOf(rapid.SampledFrom([]string{"ID", "ENABLE", "LITERAL+"})).Draw(t, "offer") {
				offer[name] = ""
			}
			hear(s, at[:2], at, offer, false)
			model[at] = offer
			got, known := s.Capabilities(IMAP)
			if want := model["b2a"] != nil && (model["b1a"] != nil || model["b1b"] != nil); known != want {
				t.Fatalf("known: got %v, want %v", known, want)
			}
			for _, name := range []string{"IMAP4REV1", "ID", "ENABLE", "LITERAL+"} {
				want := known
				for _, o := range model {
					want = want && o.Has(name)
				}
				if got.Has(name) != want {
					t.Fatalf("%s: got %v of %v", name, got, model)
				}
			}
		}
	})
}
