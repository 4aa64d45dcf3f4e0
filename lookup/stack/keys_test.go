package stack_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"switchyard/lookup"
	"switchyard/lookup/stack"
)

// holder is a directory of names with keys.
type holder struct {
	names      []string
	mechanisms []string
	err        error
}

func (h holder) Lookup(_ context.Context, name string) (lookup.Account, error) {
	switch {
	case h.err != nil:
		return lookup.Account{}, h.err
	case !slices.Contains(h.names, name):
		return lookup.Account{}, lookup.ErrAbsent
	}
	return lookup.Account{Name: name}, nil
}

func (h holder) Check(context.Context, lookup.Credentials) (lookup.Account, error) {
	return lookup.Account{}, lookup.ErrRejected
}

func (h holder) Keys(ctx context.Context, name, mechanism string) (lookup.Keys, error) {
	if _, err := h.Lookup(ctx, name); err != nil {
		return lookup.Keys{}, err
	}
	if !slices.Contains(h.mechanisms, mechanism) {
		return lookup.Keys{}, lookup.ErrNoKeys
	}
	return lookup.Keys{Mechanism: mechanism}, nil
}

func (h holder) KeyMechanisms(context.Context) ([]string, error) { return h.mechanisms, h.err }

// keyless hides a holder's keys.
type keyless struct{ lookup.Directory }

// TestKeys: keys come from the member that has the account and from no other,
// and a mechanism is offered when all members have it.
func TestKeys(t *testing.T) {
	away := lookup.Unavailable("test", errors.New("away"))
	const sha256, sha1 = "SCRAM-SHA-256", "SCRAM-SHA-1"
	new := holder{names: []string{"new@x"}, mechanisms: []string{sha256}}
	old := holder{names: []string{"new@x", "old@x"}, mechanisms: []string{sha256, sha1}}
	for name, c := range map[string]struct {
		first, second lookup.Directory
		want          map[string]error
		mechanisms    int
	}{
		"both hold":   {new, old, map[string]error{"new@x": nil, "old@x": nil, "nobody@x": lookup.ErrAbsent}, 1},
		"one holds":   {keyless{new}, old, map[string]error{"new@x": lookup.ErrNoKeys, "old@x": nil}, 0},
		"the other":   {new, keyless{old}, map[string]error{"new@x": nil, "old@x": lookup.ErrNoKeys, "nobody@x": lookup.ErrAbsent}, 0},
		"first away":  {holder{err: away}, old, map[string]error{"new@x": lookup.ErrUnavailable, "old@x": lookup.ErrUnavailable}, -1},
		"second away": {new, holder{err: away}, map[string]error{"new@x": nil, "old@x": lookup.ErrUnavailable}, -1},
	} {
		d, err := stack.New(
			stack.Member{Name: "new", Directory: c.first, Next: true},
			stack.Member{Name: "old", Directory: c.second},
		)
		if err != nil {
			t.Fatal(err)
		}
		for account, want := range c.want {
			if _, err := d.Keys(t.Context(), account, sha256); !errors.Is(err, want) {
				t.Errorf("%s: %s: got %v, want %v", name, account, err, want)
			}
		}
		got, err := d.KeyMechanisms(t.Context())
		if c.mechanisms < 0 {
			if !errors.Is(err, lookup.ErrUnavailable) {
				t.Errorf("%s: mechanisms: got %v, %v", name, got, err)
			}
		} else if err != nil || len(got) != c.mechanisms {
			t.Errorf("%s: mechanisms: got %v, %v, want %d", name, got, err, c.mechanisms)
		}
	}
}
