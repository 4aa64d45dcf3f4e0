package nwauth

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/lookup"
)

// cheap makes tests quick.
var cheap = Argon2{Memory: 64, Passes: 1, Threads: 1}

// The hashes come from other programs: perl's crypt (libxcrypt), openssl
// passwd, Python's hashlib, and the argon2 reference's own test vectors.
func TestVerify(t *testing.T) {
	const sasame, spaced = "säsame", "sämé 1"
	for hash, password := range map[string]string{
		"$1$saltsalt$.BAPehDb.S7YaJnr5SmmT/":                                                                               sasame,
		"$5$saltstring$x8VYEPuw6aTMywXE16m0RRQR7FhV/ZZUQwxpPU1Hxx1":                                                        sasame,
		"$6$saltstring$teqNLfwhA.wGPFTzjQ6p2xIXvt09LRJk1YfjgHXUZovQp1U89TFOmAv00s08S8wzanhun4YXOMiK0WpXK5r161":             sasame,
		"$6$rounds=2000$saltstring$sgGk2D2c9aMjDXYcpCqXaRu2dY1yvo7VOjn02wWxRwXiFGEXxVKf3Ua7DdrHr5pssdBMRi7DEDOBKO0OyKIHe.": sasame,
		"$2b$05$abcdefghijklmnopqrstuurrPipjwQUGZHMlujfylhNUQ0sQ6Kwny":                                                     sasame,
		"$2y$05$abcdefghijklmnopqrstuurrPipjwQUGZHMlujfylhNUQ0sQ6Kwny":                                                     sasame,
		"$2a$05$abcdefghijklmnopqrstuurrPipjwQUGZHMlujfylhNUQ0sQ6Kwny":                                                     sasame,
		"{CRYPT}$1$saltsalt$.BAPehDb.S7YaJnr5SmmT/":                                                                        sasame,
		"{blf-crypt}$2y$05$abcdefghijklmnopqrstuurrPipjwQUGZHMlujfylhNUQ0sQ6Kwny":                                          sasame,
		"abnqrLigH.z/s":                                                     "sesame",
		"abJY7nxI6y2L2":                                                     "sesame-longer-than-eight",
		"{crypt}abnqrLigH.z/s":                                              "sesame",
		"{SHA}VhW3oSZZMqdlIEy+Yt2tPanx4bk=":                                 spaced,
		"{SSHA}yMtwExGvcG8I50KOkXDfgyGRT/VzYWx0U0FMVA==":                    spaced,
		"{ssha}yMtwExGvcG8I50KOkXDfgyGRT/VzYWx0U0FMVA":                      spaced,
		"{SHA256}Ib6B3EaIKs0J9P39vmI5/rg3mSRWwdBgEKzK9a8DSUQ=":              spaced,
		"{SSHA256}M9/rtBVvsfkJowVMXDb4lINXn3/gqdiNatgHDOTi+FdzYWx0U0FMVA==": spaced,
		"{SHA512}AqtOfXRng6V3TXlZrn4Tn2MFmYf6WnxyyQxOnOl59YU+q23pTnWnjR4KrO9JvLFR72dyNfDCbgt/rE80iO3wGg==":          spaced,
		"{SSHA512}NCkLs7gcTMqsm7WsKIEwGEcklEZZdrvBef4HBKwZ7SXA3gGUb9b5SFUQVUkQ/Hf+0xuehQodpcw9CmpKzOzjvHNhbHRTQUxU": spaced,
		"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc":                    "password",
		"{ARGON2ID}$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc":          "password",
	} {
		if ok, err := Verify(hash, password); !ok || err != nil {
			t.Errorf("%s: got %v, %v, want true", hash, ok, err)
		}
		wrongs := []string{"x" + password, strings.ToUpper(password), "", password + "\x00", password[1:]}
		if strings.Contains(hash, argonPrefix) {
			wrongs = wrongs[:1] // each takes a while
		}
		for _, wrong := range wrongs {
			if ok, err := Verify(hash, wrong); ok || err != nil {
				t.Errorf("%s with %q: got %v, %v, want false", hash, wrong, ok, err)
			}
		}
	}
	if !Matches("abnqrLigH.z/s", "sesame") || Matches("abnqrLigH.z/s", "other") || Matches("{XYZ}x", "x") {
		t.Error("Matches does not agree with Verify")
	}
}

func TestVerifyLocked(t *testing.T) {
	for _, hash := range []string{"", "*", "!", "!$1$saltsalt$.BAPehDb.S7YaJnr5SmmT/"} {
		if ok, err := Verify(hash, "säsame"); ok || err != nil {
			t.Errorf("%q: got %v, %v, want false", hash, ok, err)
		}
	}
}

// What cannot be verified is broken, not wrong.
func TestVerifyBadHash(t *testing.T) {
	for _, hash := range []string{
		"{XYZ}abc", "{SSHA", "{SSHA}", "{SSHA}!!!", "{SSHA}VhW3oSZZMqdlIEy+Yt2tPanx4bk=", "{SHA}yMtwExGvcG8I50KOkXDfgyGRT/VzYWx0U0FMVA==",
		"{SHA}", "plain", "$", "$1", "$9$salt$sum", "$6$saltstring", "$6$rounds=2000000$saltstring$x", "$5$rounds=99999999$a$b",
		"$2b$31$abcdefghijklmnopqrstuurrPipjwQUGZHMlujfylhNUQ0sQ6Kwny", "$2b$05$short", "$2z$05$abcdefghijklmnopqrstuurrPipjwQUGZHMlujfylhNUQ0sQ6Kwny",
		"_abnqrLigH.z/", "a nqrLigH.z/s",
		"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ", "$argon2id$v=16$m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=4294967295,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=64,t=1000,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=64,t=1,p=0$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=64,t=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=64,t=1,p=1$c2Fs$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$CTFh",
	} {
		if ok, err := Verify(hash, "sesame"); ok || !errors.Is(err, ErrHash) {
			t.Errorf("%q: got %v, %v, want ErrHash", hash, ok, err)
		}
	}
}

func TestNewHash(t *testing.T) {
	hash, err := NewHash("sesame", cheap)
	if err != nil || !strings.HasPrefix(hash, "{ARGON2ID}$argon2id$v=19$m=64,t=1,p=1$") {
		t.Fatalf("got %q, %v", hash, err)
	}
	if ok, err := Verify(hash, "sesame"); !ok || err != nil {
		t.Errorf("verify: got %v, %v", ok, err)
	}
	if ok, _ := Verify(hash, "sesamE"); ok {
		t.Error("a wrong password matches")
	}
	if again, _ := NewHash("sesame", cheap); again == hash {
		t.Error("two hashes of one password are the same: no salt")
	}
	if err := checkHash(hash); err != nil {
		t.Errorf("a record cannot hold it: %v", err)
	}
	for _, password := range []string{"", "a\x00b", strings.Repeat("x", maxPassword+1)} {
		if _, err := NewHash(password, cheap); err == nil {
			t.Errorf("%.10q: got no error", password)
		}
	}
	if _, err := NewHash("x", Argon2{Memory: 1 << 30}); err == nil {
		t.Error("a TiB for a hash: got no error")
	}
}

func FuzzVerify(f *testing.F) {
	for _, hash := range []string{
		"$1$saltsalt$.BAPehDb.S7YaJnr5SmmT/", "$6$rounds=1000$s$x", "$5$saltstring$x8VYEPuw6aTMywXE16m0RRQR7FhV/ZZUQwxpPU1Hxx1",
		"{SSHA}yMtwExGvcG8I50KOkXDfgyGRT/VzYWx0U0FMVA", "abnqrLigH.z/s", "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8",
		"$2y$04$abcdefghijklmnopqrstuurrPipjwQUGZHMlujfylhNUQ0sQ6Kwny",
	} {
		f.Add(hash, "sesame")
	}
	f.Fuzz(func(t *testing.T, hash, password string) {
		if strings.Contains(hash, "rounds=") && len(hash) > 20 || strings.Contains(hash, "$2") && !strings.Contains(hash, "$04$") || strings.Contains(hash, "m=") && !strings.Contains(hash, "m=64,t=1,") {
			return // slow on purpose
		}
		if ok, err := Verify(hash, password); ok && (err != nil || password == "" || hash == "") {
			t.Fatalf("%q, %q: %v, %v", hash, password, ok, err)
		}
	})
}

func TestHashersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHashers(2, time.Second)
		release := make(chan struct{})
		for range 2 {
			go h.do(t.Context(), func() { <-release })
		}
		synctest.Wait()
		start := time.Now()
		err := h.do(t.Context(), func() { t.Error("a third one ran") })
		if !errors.Is(err, lookup.ErrUnavailable) || time.Since(start) != time.Second {
			t.Errorf("overflow: got %v after %v, want unavailable after 1s", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := h.do(ctx, func() { t.Error("ran") }); !errors.Is(err, lookup.ErrUnavailable) {
			t.Errorf("ended context: got %v, want unavailable", err)
		}
		close(release)
		synctest.Wait()
		ran := false
		if err := h.do(t.Context(), func() { ran = true }); err != nil || !ran {
			t.Errorf("afterwards: got %v, %v", ran, err)
		}
	})
}
