package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"switchyard/backend"
)

func testProperties(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u, other := account(t, s, "ann"), account(t, s, "bob")
	must(t, func() error { _, err := u.Create(ctx, "a/b", ""); return err }())
	box, none := mailbox(t, u, "a/b"), backend.GUID{}

	same := func(what string, u backend.User, id backend.GUID, prefix string, want map[string]string) {
		t.Helper()
		got, err := u.Properties(ctx, id, prefix)
		must(t, err)
		if len(got) != len(want) {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
		for name, value := range want {
			if v, ok := got[name]; !ok || string(v) != value {
				t.Errorf("%s: %q is %q %v, want %q", what, name, v, ok, value)
			}
		}
	}
	same("nothing yet", u, none, "", nil)
	must(t, u.SetProperties(ctx, none, map[string][]byte{"x/1": []byte("one"), "x/2": {}, "y\xff": []byte("\x00")}))
	must(t, u.SetProperties(ctx, box.ID, map[string][]byte{"x/1": []byte("of the mailbox")}))
	same("of the account", u, none, "", map[string]string{"x/1": "one", "x/2": "", "y\xff": "\x00"})
	same("with a prefix", u, none, "x/", map[string]string{"x/1": "one", "x/2": ""})
	same("of a mailbox", u, box.ID, "", map[string]string{"x/1": "of the mailbox"})
	same("of another account", other, none, "", nil)
	same("of another's mailbox", other, box.ID, "", nil)

	must(t, u.SetProperties(ctx, none, map[string][]byte{"x/1": nil, "x/2": []byte("two"), "never": nil}))
	same("changed and removed", u, none, "", map[string]string{"x/2": "two", "y\xff": "\x00"})

	// They follow a mailbox through a rename, and die with it.
	must(t, u.Rename(ctx, "a", "c"))
	same("renamed", u, mailbox(t, u, "c/b").ID, "", map[string]string{"x/1": "of the mailbox"})
	must(t, u.Delete(ctx, "c/b"))
	same("deleted", u, box.ID, "", nil)
	if err := u.SetProperties(ctx, box.ID, map[string][]byte{"x": {1}}); !errors.Is(err, backend.ErrNoMailbox) {
		t.Errorf("for a deleted mailbox: got %v", err)
	}
	testPropertyBounds(t, other)
}

// testPropertyBounds: what is refused changes nothing.
func testPropertyBounds(t *testing.T, u backend.User) {
	ctx, none := t.Context(), backend.GUID{}
	long := string(bytes.Repeat([]byte("n"), backend.MaxPropertyName))
	must(t, u.SetProperties(ctx, none, map[string][]byte{long: make([]byte, backend.MaxProperty)}))
	for name, values := range map[string]map[string][]byte{
		"no name":     {"": {1}, "ok": {1}},
		"long name":   {long + "n": {1}, "ok": {1}},
		"large value": {"n": make([]byte, backend.MaxProperty+1), "ok": {1}},
	} {
		if err := u.SetProperties(ctx, none, values); !errors.Is(err, backend.ErrTooBig) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	many := make(map[string][]byte)
	for i := range backend.MaxProperties {
		many[fmt.Sprint(i)] = []byte{1}
	}
	if err := u.SetProperties(ctx, none, many); !errors.Is(err, backend.ErrTooMany) {
		t.Errorf("one too many: got %v", err)
	}
	got, err := u.Properties(ctx, none, "")
	must(t, err)
	if names := slices.Collect(maps.Keys(got)); len(names) != 1 || names[0] != long {
		t.Errorf("%d properties are left", len(names))
	}
	many[long] = nil
	must(t, u.SetProperties(ctx, none, many))
}
