package resolve_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"switchyard/lookup"
	"switchyard/lookup/resolve"
)

// node is what the model knows of a name.
type node struct {
	kind string // absent, down, mailbox, forward, only, alias
	to   []int
}

// reach is the meaning of a graph, computed without regard for cost: all paths.
// It reports whether any path meets a circle or a name that is down.
func reach(nodes []node, at int, path []int, out map[int]bool) (bad bool) {
	n := nodes[at]
	if slices.Contains(path, at) || n.kind == "down" {
		return true
	}
	path = append(slices.Clone(path), at)
	self := slices.Contains(n.to, at)
	switch n.kind {
	case "mailbox":
		out[at] = true
		return false
	case "forward":
		out[at] = true
	case "only":
		if self || len(n.to) == 0 {
			out[at] = true
		}
	case "absent":
		return false
	}
	for _, next := range n.to {
		if next == at && n.kind != "alias" {
			continue
		}
		bad = reach(nodes, next, path, out) || bad
	}
	return bad
}

func name(i int) string { return fmt.Sprintf("n%d@a.test", i) }

// TestModel: over any graph of aliases and forwards, the targets are those that
// can be reached, and a circle or an unavailable name anywhere is an error.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const n = 6
		nodes := make([]node, n)
		records := make(map[string]string)
		for i := range nodes {
			nodes[i].kind = rapid.SampledFrom([]string{"absent", "mailbox", "mailbox", "forward", "only", "alias", "alias", "down"}).Draw(t, "kind")
			var to []string
			if nodes[i].kind != "absent" && nodes[i].kind != "mailbox" && nodes[i].kind != "down" {
				nodes[i].to = rapid.SliceOfN(rapid.IntRange(0, n-1), 0, 3).Draw(t, "to")
				for _, next := range nodes[i].to {
					to = append(to, name(next))
				}
			}
			switch nodes[i].kind {
			case "mailbox":
				records[name(i)] = ""
			case "down":
				records[name(i)] = "down"
			case "forward":
				records[name(i)] = "> " + strings.Join(to, " ")
			case "only":
				records[name(i)] = ">> " + strings.Join(to, " ")
			case "alias":
				records[name(i)] = strings.Join(to, ",") + ","
			}
		}
		r, err := resolve.New(directory(records), resolve.Options{Domains: []string{"a.test"}})
		if err != nil {
			t.Fatal(err)
		}
		for i := range nodes {
			want := make(map[int]bool)
			bad := reach(nodes, i, nil, want)
			result, err := r.Resolve(t.Context(), name(i))
			switch {
			case bad:
				if !errors.As(err, new(*resolve.ChainError)) && !errors.Is(err, lookup.ErrUnavailable) {
					t.Fatalf("%s of %v: got %v, %v, want an error", name(i), records, short(result), err)
				}
				continue
			case len(want) == 0:
				if !errors.Is(err, lookup.ErrAbsent) {
					t.Fatalf("%s of %v: got %v, %v, want absent", name(i), records, short(result), err)
				}
				continue
			}
			got := make(map[string]bool)
			for _, target := range result.Targets {
				if got[target.Account.Name] {
					t.Fatalf("%s of %v: %s twice", name(i), records, target.Account.Name)
				}
				got[target.Account.Name] = true
			}
			same := len(got) == len(want) && err == nil
			for j := range want {
				same = same && got[name(j)]
			}
			if !same {
				t.Fatalf("%s of %v: got %v, %v, want %v", name(i), records, short(result), err, want)
			}
		}
	})
}

// FuzzResolve: no address and no text of an alias does harm: an answer is one
// of those that there are, and no target is a command.
func FuzzResolve(f *testing.F) {
	f.Add("anna+x@a.test", "b@a.test,c", "> x")
	f.Add("list@a.test", "list@a.test", "|/bin/sh")
	f.Add("*@a.test", "\"a,b\"@c.test ,,\n", ":include:/etc/passwd")
	f.Fuzz(func(t *testing.T, address, alias, forward string) {
		d := directory(map[string]string{"anna@a.test": "", "list@a.test": alias + ",", "*@a.test": "list@a.test, anna@a.test"})
		r := record("fwd@a.test", "")
		r.Forwards = []string{forward, alias}
		d.Set(r)
		resolver, err := resolve.New(d, resolve.Options{Domains: []string{"a.test"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range []string{address, "list@a.test", "fwd@a.test", "who@a.test"} {
			result, err := resolver.Resolve(t.Context(), a)
			if err != nil {
				if len(result.Targets) > 0 || !errors.As(err, new(*resolve.ChainError)) && !errors.Is(err, lookup.ErrAbsent) {
					t.Fatalf("%q: got %v, %v", a, result, err)
				}
				continue
			}
			if len(result.Targets) == 0 || len(result.Targets) > 200 {
				t.Fatalf("%q: %d targets", a, len(result.Targets))
			}
			for _, target := range result.Targets {
				if target.Kind == resolve.Mailbox {
					continue
				}
				if clean, err := lookup.CleanName(target.Address, "a.test"); err != nil || strings.ContainsAny(clean[:1], "|/:") || !strings.Contains(clean, "@") {
					t.Fatalf("%q leads to %q", a, target.Address)
				}
			}
		}
	})
}
