package authent

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"switchyard/lookup"
)

const (
	sha256Name = "SCRAM-SHA-256"
	anna       = "anna@example.test"
)

// annasKeys are easy to find where they should not be.
func annasKeys() lookup.Keys {
	return lookup.Keys{
		Mechanism: sha256Name, Iterations: 4096, Salt: []byte("0123456789abcdef"),
		StoredKey: bytes.Repeat([]byte("s"), 32), ServerKey: bytes.Repeat([]byte("v"), 32),
	}
}

// TestParseKeys: what is believed is about the account and the mechanism that
// were asked for, and no error shows a key.
func TestParseKeys(t *testing.T) {
	reply, err := KeysReply(anna, annasKeys())
	if err != nil {
		t.Fatal(err)
	}
	good := reply.Text
	if got, err := ParseKeys(good, anna, sha256Name); err != nil || !cmp.Equal(got, annasKeys()) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := ParseKeys(anna+" "+sha256Name, anna, sha256Name); !errors.Is(err, lookup.ErrNoKeys) {
		t.Errorf("without keys: got %v", err)
	}
	b64 := base64.StdEncoding.EncodeToString
	for what, text := range map[string]string{
		"nothing":           "",
		"another account":   strings.Replace(good, "anna", "bob", 1),
		"another mechanism": strings.Replace(good, "256", "1", 1),
		"a word less":       good[:strings.LastIndex(good, " ")],
		"a word more":       good + " x",
		"no iterations":     strings.Replace(good, " 4096 ", " 0 ", 1),
		"too many":          strings.Replace(good, " 4096 ", " 99999999 ", 1),
		"negative":          strings.Replace(good, " 4096 ", " -4096 ", 1),
		"no salt":           strings.Replace(good, b64([]byte("0123456789abcdef")), "", 1),
		"no base64":         strings.Replace(good, "c3Nz", "c3!z", 1),
		"short":             strings.Replace(good, b64(annasKeys().StoredKey), b64([]byte("ssss")), 1),
		"of another length": strings.Replace(good, b64(annasKeys().ServerKey), b64(bytes.Repeat([]byte("v"), 20)), 1),
	} {
		got, err := ParseKeys(text, anna, sha256Name)
		if !errors.Is(err, ErrGarbage) || got.StoredKey != nil {
			t.Errorf("%s: got %v, %v, want garbage", what, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "c3") {
			t.Errorf("%s: the error shows a key: %v", what, err)
		}
	}
	for what, change := range map[string]func(*lookup.Keys){
		"no mechanism": func(k *lookup.Keys) { k.Mechanism = "no mechanism" }, "a line end": func(k *lookup.Keys) { k.Mechanism = "A\nB" },
		"no iterations": func(k *lookup.Keys) { k.Iterations = 0 }, "no salt": func(k *lookup.Keys) { k.Salt = nil },
		"short": func(k *lookup.Keys) { k.StoredKey = k.StoredKey[:31] }, "none": func(k *lookup.Keys) { k.StoredKey, k.ServerKey = nil, nil },
	} {
		k := annasKeys()
		change(&k)
		if r, err := KeysReply(anna, k); err == nil {
			t.Errorf("%s: became %q", what, r.Text)
		}
	}
}

// FuzzKeys: what is read can be written, and is read as the same again.
func FuzzKeys(f *testing.F) {
	good, err := KeysReply(anna, annasKeys())
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{good.Text, anna + " " + sha256Name, good.Text + " ", strings.ToUpper(good.Text), "", anna + " SCRAM-SHA-256 1 a= b= c="} {
		f.Add(text, sha256Name)
	}
	f.Add(anna+" X 1 AA== AA== AA==", "X")
	f.Fuzz(func(t *testing.T, text, mechanism string) {
		if m, err := ParseMechanisms(text); err == nil && MechanismsReply(m).Text != text {
			t.Fatalf("%q: mechanisms %q", text, m)
		}
		got, err := ParseKeys(text, anna, mechanism)
		switch {
		case errors.Is(err, lookup.ErrNoKeys), errors.Is(err, ErrGarbage):
			if got.StoredKey != nil {
				t.Fatalf("%q: keys with %v", text, err)
			}
			return
		case err != nil:
			t.Fatalf("%q: %v", text, err)
		}
		again, err := KeysReply(anna, got)
		if err != nil {
			t.Fatalf("%q was read and cannot be written: %v", text, err)
		}
		line, err := again.Line()
		if err != nil || strings.ContainsAny(line, "\r\n\x00") {
			t.Fatalf("%q became %q, %v", text, line, err)
		}
		if back, err := ParseKeys(again.Text, anna, mechanism); err != nil || !cmp.Equal(back, got) {
			t.Fatalf("%q became %q: %v", text, again.Text, err)
		}
	})
}
