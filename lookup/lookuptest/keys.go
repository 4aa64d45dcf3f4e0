package lookuptest

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"switchyard/lookup"
)

// KeyFixture tells RunKeys how to make a directory of accounts with the given
// hashes, in the form of NWAuth files, and nothing else. An empty hash is that of
// an account to which nobody can log in. What it starts ends with t.Cleanup.
type KeyFixture struct {
	Open func(t *testing.T, hashes map[string]string) lookup.KeyHolder

	// Promised says that the directory does not look which mechanisms all
	// accounts can use, but believes its operator.
	Promised bool
}

// keysAndHash makes keys out of a few letters, and the hash that holds them.
func keysAndHash(mechanism string, size int, letters string) (lookup.Keys, string) {
	fill := func(s string, n int) []byte { return []byte(strings.Repeat(s, n)[:n]) }
	k := lookup.Keys{
		Mechanism: mechanism, Iterations: 4096 + len(letters),
		Salt: fill("salt of "+letters, 16), StoredKey: fill("stored "+letters, size), ServerKey: fill("server "+letters, size),
	}
	b64 := base64.StdEncoding.EncodeToString
	return k, fmt.Sprintf("{%s}%d,%s,%s,%s", mechanism, k.Iterations, b64(k.Salt), b64(k.StoredKey), b64(k.ServerKey))
}

// RunKeys holds a directory against the contract of lookup.KeyHolder.
func RunKeys(t *testing.T, f KeyFixture) {
	t.Helper()
	const sha256, sha1, anna = "SCRAM-SHA-256", "SCRAM-SHA-1", "anna@example.test"
	want, hash := keysAndHash(sha256, 32, "anna")
	_, bobs := keysAndHash(sha256, 32, "bob")
	older, olderHash := keysAndHash(sha1, 20, "carl")
	const other = "{SHA}Lve95gjOVATpfV8EL5X4nxwjKHE="
	t.Run("keys", func(t *testing.T) {
		d := f.Open(t, map[string]string{
			anna: hash, "bob@example.test": bobs, "carl@example.test": olderHash, "dora@example.test": other, "locked@example.test": "*", "none@example.test": "",
		})
		wantKeys(t, d, anna, want)
		wantKeys(t, d, "carl@example.test", older)
		for _, c := range []struct {
			name, mechanism string
			want            error
		}{
			{anna, sha1, lookup.ErrNoKeys}, {anna, "SCRAM-SHA-512", lookup.ErrNoKeys}, {anna, "no mechanism", lookup.ErrNoKeys},
			{anna, "", lookup.ErrNoKeys}, {anna, "scram-sha-256", lookup.ErrNoKeys},
			{"carl@example.test", sha256, lookup.ErrNoKeys}, {"dora@example.test", sha256, lookup.ErrNoKeys},
			{"locked@example.test", sha256, lookup.ErrAbsent}, {"none@example.test", sha256, lookup.ErrAbsent},
			{"nobody@example.test", sha256, lookup.ErrAbsent}, {"nobody@example.test", "no mechanism", lookup.ErrAbsent},
		} {
			got, err := d.Keys(t.Context(), c.name, c.mechanism)
			if !errors.Is(err, c.want) || errors.Is(err, lookup.ErrUnavailable) || got.StoredKey != nil {
				t.Errorf("keys of %s for %q: got %v, %v, want %v", c.name, c.mechanism, got, err, c.want)
			}
		}
		for what, name := range HostileNames() {
			if got, err := d.Keys(t.Context(), name, sha256); !errors.Is(err, lookup.ErrAbsent) {
				t.Errorf("keys of a hostile name (%s): got %v, %v, want absent", what, got, err)
			}
		}
		wantKeys(t, d, anna, want)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := d.Keys(ended, "nobody@example.test", sha256); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("keys behind the end: got %v, want unavailable", err)
		}
	})
	if f.Promised {
		return
	}
	t.Run("mechanisms", func(t *testing.T) {
		for what, c := range map[string]struct {
			hashes map[string]string
			want   []string
		}{
			"one for all":      {map[string]string{anna: hash, "bob@example.test": bobs, "locked@example.test": "!" + other, "none@example.test": ""}, []string{sha256}},
			"the older":        {map[string]string{"carl@example.test": olderHash}, []string{sha1}},
			"another hash":     {map[string]string{anna: hash, "dora@example.test": other}, nil},
			"one hash of each": {map[string]string{anna: hash, "carl@example.test": olderHash}, nil},
			"nobody":           {map[string]string{}, nil},
			"nobody logs in":   {map[string]string{"locked@example.test": "*"}, nil},
		} {
			got, err := f.Open(t, c.hashes).KeyMechanisms(t.Context())
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("mechanisms, %s: got %v, %v, want %v", what, got, err, c.want)
			}
		}
	})
}

// wantKeys asks for keys, and for no word of them where they are printed.
func wantKeys(t *testing.T, d lookup.KeyHolder, name string, want lookup.Keys) {
	t.Helper()
	got, err := d.Keys(t.Context(), name, want.Mechanism)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("keys of %s: %v (-want +got):\n%s", name, err, diff)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, got); bytes.Contains([]byte(text), want.StoredKey[:6]) || strings.Contains(text, "115 116 111") {
			t.Errorf("%s shows the keys of %s", format, name)
		}
	}
}
