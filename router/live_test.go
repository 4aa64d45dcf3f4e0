package router

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"
)

// TestRegistryAgainstAModel: the lists by age and by user hold what a plain
// slice holds, whatever comes and goes.
func TestRegistryAgainstAModel(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var g registry
		var model []*live
		count := &tally{}
		port := &port{tally: count}
		users := []string{"", "anna", "berta", "carla"}
		for step := range 500 {
			switch n := rnd.IntN(10); {
			case n < 4 || len(model) == 0:
				l := &live{port: port, id: fmt.Sprint(step)}
				if !g.add(l) {
					t.Fatal("not taken in")
				}
				model = append(model, l)
			case n < 7:
				g.name(model[rnd.IntN(len(model))], users[rnd.IntN(len(users))])
			case n < 8:
				g.enter(model[rnd.IntN(len(model))], State(rnd.IntN(int(states))))
			default:
				i := rnd.IntN(len(model))
				g.remove(model[i])
				model = slices.Delete(model, i, i+1)
			}
			agree(t, &g, model, users[1:], count)
		}
		none := g.empty()
		for _, l := range model {
			select {
			case <-none:
				t.Fatal("not empty yet")
			default:
			}
			g.remove(l)
		}
		if len(model) > 0 {
			<-none
		}
		<-g.empty()
		agree(t, &g, nil, users[1:], count)
	}
}

func agree(t *testing.T, g *registry, model []*live, users []string, count *tally) {
	t.Helper()
	if got := g.list(&Match{All: true}); !slices.Equal(got, model) {
		t.Fatalf("by age: got %v, want %v", got, model)
	}
	named := 0
	for _, user := range users {
		got := g.of(user)
		want := 0
		for _, l := range model {
			if l.user == user {
				want++
				if !slices.Contains(got, l) {
					t.Fatalf("%s misses a session", user)
				}
			}
		}
		if len(got) != want {
			t.Fatalf("%s has %d sessions, want %d", user, len(got), want)
		}
		if want > 0 {
			named++
		}
	}
	if n, u := g.size(); n != len(model) || u != named {
		t.Fatalf("size %d, %d users, want %d, %d", n, u, len(model), named)
	}
	for s := range states {
		want := int64(0)
		for _, l := range model {
			if l.state == s {
				want++
			}
		}
		if got := count.live[s].Load(); got != want {
			t.Fatalf("%d sessions are %v, want %d", got, s, want)
		}
	}
}

// TestChangesAreRemembered for as long as a login may take, and more is assumed
// when more happened.
func TestChangesAreRemembered(t *testing.T) {
	var g registry
	before := g.now()
	g.note("anna")
	if !g.changedSince(before, "anna") || g.changedSince(before, "berta") || g.changedSince(g.now(), "anna") {
		t.Error("one change is remembered wrongly")
	}
	for range len(g.changed) - 1 {
		g.note("carla")
	}
	if !g.changedSince(before, "anna") || g.changedSince(before, "berta") {
		t.Error("forgotten too early")
	}
	g.note("carla")
	if !g.changedSince(before, "berta") {
		t.Error("more has changed than can be remembered, and nothing is assumed")
	}
}

// BenchmarkRegistry is what the registry costs a session: its life in it, and
// the memory that it takes meanwhile.
func BenchmarkRegistry(b *testing.B) {
	var g registry
	port := &port{tally: &tally{}}
	client := netip.MustParseAddrPort("192.0.2.1:50000")
	const others = 10000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	one := func(user string) *live {
		l := &live{port: port, id: "06h11k481epa5ne6", client: client, since: time.Now().UnixNano()}
		g.add(l)
		g.name(l, user)
		g.update(l, func(l *live) { l.home, l.node = "b1", "b1a" })
		g.enter(l, StateJoined)
		return l
	}
	for i := range others {
		one(fmt.Sprintf("user%d@example.test", i))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportAllocs()
	for b.Loop() {
		g.remove(one("anna@example.test"))
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/others, "B/session")
	runtime.KeepAlive(&g)
}
