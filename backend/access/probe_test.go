package access

import (
	"errors"
	"testing"

	"switchyard/internal/probe"
	"switchyard/lookup"
)

// TestProbe: a proxy that logs in for nobody hears how the node is, and nobody
// else does; no mailbox is made for it.
func TestProbe(t *testing.T) {
	right := Login{Authzid: probe.User, Authcid: "proxy", Password: "between us", Peer: inside, TLS: true}
	with := func(change func(*Login)) Login {
		l := right
		change(&l)
		return l
	}
	g, store, dir := setUp(t)
	dir.Fail(lookup.Unavailable("test", nil)) // the node is not asked about its directory
	for name, l := range map[string]Login{
		"wrong secret":  with(func(l *Login) { l.Password = "x" }),
		"in clear":      with(func(l *Login) { l.TLS = false }),
		"from outside":  with(func(l *Login) { l.Peer = outside }),
		"another login": with(func(l *Login) { l.Authcid = "anna@example.test" }),
	} {
		if _, err := g.Login(t.Context(), l); !errors.Is(err, lookup.ErrRejected) || errors.As(err, new(*ProbeError)) {
			t.Errorf("%s: got %v, want a plain no", name, err)
		}
	}
	if g.Probe(with(func(l *Login) { l.Authzid = "anna@example.test" })) != nil {
		t.Error("a login for a user is taken for a question")
	}
	ask := func(want probe.Word) {
		t.Helper()
		var answer *ProbeError
		if _, err := g.Login(t.Context(), right); !errors.As(err, &answer) || answer.Word != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	ask(probe.Ready)
	g.o.Ready = func() probe.Answer { return probe.Answer{Word: probe.Drain, Text: "moves house"} }
	ask(probe.Drain)
	if store.created > 0 {
		t.Error("a mailbox was made")
	}
}
