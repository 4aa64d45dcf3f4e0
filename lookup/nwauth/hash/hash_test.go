package hash

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

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
		"{SHA512}AqtOfXRng6V3TXlZrn4Tn2MFmYf6WnxyyQxOnOl59YU+q23pTnWnjR4KrO9JvLFR72dyNfDCbgt/rE80iO3wGg==":                                       spaced,
		"{SSHA512}NCkLs7gcTMqsm7WsKIEwGEcklEZZdrvBef4HBKwZ7SXA3gGUb9b5SFUQVUkQ/Hf+0xuehQodpcw9CmpKzOzjvHNhbHRTQUxU":                              spaced,
		"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc":                                                 "password",
		"{PBKDF2-SHA256}10000$c2FsdFNBTFRzYWx0U0FMVA$/228aeikHNmHqC6q3olhYRE/TtxInF0b6H/wBH7Apus":                                                spaced,
		"{pbkdf2-sha256}10000$c2FsdFNBTFRzYWx0U0FMVA==$/228aeikHNmHqC6q3olhYRE/TtxInF0b6H/wBH7Apus=":                                             spaced,
		"$pbkdf2-sha256$10000$c2FsdFNBTFRzYWx0U0FMVA$/228aeikHNmHqC6q3olhYRE/TtxInF0b6H/wBH7Apus":                                                spaced,
		"{SCRAM-SHA-256}4096,c2FsdFNBTFRzYWx0U0FMVA==,fTYQTMCkPp9nk9xuV8t0NQDHC29qbx0oKt7FtPOdMF8=,AwTdhPCm+gIJEp071SwonWqeSWE333n6AfyVU/BvL+o=": spaced,
		"{scram-sha-1}4096,c2FsdFNBTFRzYWx0U0FMVA==,cZBG6XUjjBRDsrNdcpGc4aEyBbk=,Sf4IIio1ZV1ep5IDjfV0zo9/APg=":                                   spaced,
		"{ARGON2ID}$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc":                                       "password",
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
		"{XYZ}abc", "{S}x", "{SSSHA}yMtwExGvcG8I50KOkXDfgyGRT/VzYWx0U0FMVA==", "{SSHA", "{SSHA}", "{SSHA}!!!", "{SSHA}VhW3oSZZMqdlIEy+Yt2tPanx4bk=", "{SHA}yMtwExGvcG8I50KOkXDfgyGRT/VzYWx0U0FMVA==",
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
		"{PBKDF2-SHA256}10000$c2FsdFNBTFRzYWx0U0FMVA", "{PBKDF2-SHA256}0$c2FsdFNBTFRzYWx0U0FMVA$/228aeikHNmHqC6q3olhYRE/TtxInF0b6H/wBH7Apus",
		"{PBKDF2-SHA256}9999999$c2FsdFNBTFRzYWx0U0FMVA$/228aeikHNmHqC6q3olhYRE/TtxInF0b6H/wBH7Apus", "{PBKDF2-SHA256}1000$!$/228aeikHNmHqC6q3olhYRE",
		"{SCRAM-SHA-256}4095,c2FsdFNBTFRzYWx0U0FMVA==,fTYQTMCkPp9nk9xuV8t0NQDHC29qbx0oKt7FtPOdMF8=,AwTdhPCm+gIJEp071SwonWqeSWE333n6AfyVU/BvL+o=",
		"{SCRAM-SHA-1}4096,c2FsdFNBTFRzYWx0U0FMVA==,fTYQTMCkPp9nk9xuV8t0NQDHC29qbx0oKt7FtPOdMF8=,AwTdhPCm+gIJEp071SwonWqeSWE333n6AfyVU/BvL+o=",
		"{SCRAM-SHA-256}4096,c2FsdFNBTFRzYWx0U0FMVA==,fTYQTMCkPp9nk9xuV8t0NQDHC29qbx0oKt7FtPOdMF8=", "{SCRAM-SHA-256}",
		"$y$j9T$F5Jx5fExrKuPp53xLKQ..1$2XG8TbeFGEUHepjXSRRwTEN/pknneEfp/PquC6DSDN4",
	} {
		if ok, err := Verify(hash, "sesame"); ok || !errors.Is(err, ErrForm) {
			t.Errorf("%q: got %v, %v, want ErrForm", hash, ok, err)
		}
	}
}

func TestNew(t *testing.T) {
	hash, err := New("sesame", cheap)
	if err != nil || !strings.HasPrefix(hash, "{ARGON2ID}$argon2id$v=19$m=64,t=1,p=1$") {
		t.Fatalf("got %q, %v", hash, err)
	}
	if ok, err := Verify(hash, "sesame"); !ok || err != nil {
		t.Errorf("verify: got %v, %v", ok, err)
	}
	if ok, _ := Verify(hash, "sesamE"); ok {
		t.Error("a wrong password matches")
	}
	if again, _ := New("sesame", cheap); again == hash {
		t.Error("two hashes of one password are the same: no salt")
	}
	for _, password := range []string{"", "a\x00b", strings.Repeat("x", MaxPassword+1)} {
		if _, err := New(password, cheap); err == nil {
			t.Errorf("%.10q: got no error", password)
		}
	}
	if _, err := New("x", Argon2{Memory: 1 << 30}); err == nil {
		t.Error("a TiB for a hash: got no error")
	}
}

func FuzzVerify(f *testing.F) {
	for _, hash := range []string{
		"$1$saltsalt$.BAPehDb.S7YaJnr5SmmT/", "$6$rounds=1000$s$x", "$5$saltstring$x8VYEPuw6aTMywXE16m0RRQR7FhV/ZZUQwxpPU1Hxx1",
		"{SSHA}yMtwExGvcG8I50KOkXDfgyGRT/VzYWx0U0FMVA", "abnqrLigH.z/s", "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8",
		"$2y$04$abcdefghijklmnopqrstuurrPipjwQUGZHMlujfylhNUQ0sQ6Kwny", "{PBKDF2-SHA256}1$c2FsdFNBTFRzYWx0U0FMVA$/228aeikHNmHqC6q3olhYRE",
		"{SCRAM-SHA-256}4096,c2FsdFNBTFRzYWx0U0FMVA==,fTYQTMCkPp9nk9xuV8t0NQDHC29qbx0oKt7FtPOdMF8=,AwTdhPCm+gIJEp071SwonWqeSWE333n6AfyVU/BvL+o=",
	} {
		f.Add(hash, "sesame")
	}
	f.Fuzz(func(t *testing.T, hash, password string) {
		if strings.Contains(hash, "rounds=") && len(hash) > 20 || strings.Contains(hash, "$2") && !strings.Contains(hash, "$04$") || strings.Contains(hash, "m=") && !strings.Contains(hash, "m=64,t=1,") {
			return // slow on purpose
		}
		if strings.Contains(strings.ToUpper(hash), "PBKDF2") && !strings.Contains(hash, "}1$") {
			return // slow on purpose
		}
		Outdated(hash, cheap)
		if _, isSCRAM := ParseSCRAM(hash); isSCRAM && Known(hash) != nil {
			t.Fatalf("%q has keys and is not known", hash)
		}
		if ok, err := Verify(hash, password); err == nil && CheckPassword(password) == nil && Known(hash) != nil {
			t.Fatalf("%q is verified and not known", hash)
		} else if ok && (err != nil || password == "" || hash == "") {
			t.Fatalf("%q, %q: %v, %v", hash, password, ok, err)
		}
	})
}

// cheap makes tests quick.
var cheap = Argon2{Memory: 64, Passes: 1, Threads: 1}

func TestSCRAM(t *testing.T) {
	// RFC 7677 §3: the keys behind its dialogue.
	const pencil = "{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
	if ok, err := Verify(pencil, "pencil"); !ok || err != nil {
		t.Errorf("got %v, %v", ok, err)
	}
	stored, err := NewSCRAM("I\u00adX", 0) // RFC 4013 §3: the same as IX
	if err != nil {
		t.Fatal(err)
	}
	for _, password := range []string{"IX", "I\u00adX"} {
		if ok, err := Verify(stored, password); !ok || err != nil {
			t.Errorf("%q: got %v, %v", password, ok, err)
		}
	}
	keys, ok := ParseSCRAM(stored)
	if !ok || keys.Mechanism != "SCRAM-SHA-256" || keys.Iterations != 4096 || len(keys.Salt) != scramSalt || len(keys.StoredKey) != 32 || len(keys.ServerKey) != 32 {
		t.Errorf("keys: got %v, %v", keys.Iterations, ok)
	}
	if text := fmt.Sprintf("%v %+v %#v", keys, keys, keys); strings.Contains(text, "[") {
		t.Errorf("printing shows keys: %s", text)
	}
	if _, ok := ParseSCRAM("{SSHA}yMtwExGvcG8I50KOkXDfgyGRT/VzYWx0U0FMVA=="); ok {
		t.Error("another scheme's hash has keys")
	}
	for _, iterations := range []int{1, -4, maxIterations + 1} {
		if _, err := NewSCRAM("x", iterations); err == nil {
			t.Errorf("%d iterations: got no error", iterations)
		}
	}
}

func TestKnown(t *testing.T) {
	for hash, want := range map[string]string{
		"": "", "*": "", "{SSHA}x": "", "$6$x": "", "abnqrLigH.z/s": "", "{scram-sha-1}": "",
		"{XYZ}x": "unknown form", "plain": "unknown form", "$y$j9T$x$y": "yescrypt", "{CRYPT}$7$x": "scrypt", "$argon2i$v=19$x": "argon2i",
	} {
		err := Known(hash)
		if want == "" && err != nil || want != "" && (!errors.Is(err, ErrForm) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", hash, err, want)
		}
	}
}

func TestOutdated(t *testing.T) {
	made, err := New("x", cheap)
	if err != nil {
		t.Fatal(err)
	}
	for hash, want := range map[string]bool{
		made: false, "abnqrLigH.z/s": true, "{SSHA}x": true, "$6$x$y": true, "{PBKDF2-SHA256}1$a$b": true,
		"{SCRAM-SHA-256}x": false, "": false, "!": false, "$y$x": false, "{XYZ}x": false,
	} {
		if got := Outdated(hash, cheap); got != want {
			t.Errorf("%q: got %v", hash, got)
		}
	}
	for _, cost := range []Argon2{{}, {Memory: 65, Passes: 1}, {Memory: 64, Passes: 2}} {
		if !Outdated(made, cost) {
			t.Errorf("with costs of %+v it is not outdated", cost)
		}
	}
}

// TestKeyMechanism: a hash's scheme says what keys it has, in any case, as
// ParseSCRAM reads it.
func TestKeyMechanism(t *testing.T) {
	stored, err := NewSCRAM("sesame", 0)
	if err != nil {
		t.Fatal(err)
	}
	for hash, want := range map[string]string{
		stored: "SCRAM-SHA-256", strings.ToLower(stored[:15]) + stored[15:]: "SCRAM-SHA-256", "{SCRAM-SHA-1}4096,c2FsdA==,x,x": "SCRAM-SHA-1",
		"{SCRAM-SHA-256": "", "{SCRAM-SHA-256}": "SCRAM-SHA-256", "{SCRAM-SHA-512}4096": "", "SCRAM-SHA-256": "", "": "", "{": "", "*" + stored: "", "{SSHA}x": "",
	} {
		if got := KeyMechanism(hash); got != want {
			t.Errorf("%q: got %q, want %q", hash, got, want)
		}
		if keys, ok := ParseSCRAM(hash); ok && keys.Mechanism != KeyMechanism(hash) {
			t.Errorf("%q: its keys are for %s", hash, keys.Mechanism)
		}
	}
}
