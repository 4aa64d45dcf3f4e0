package e2e

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// line is a line of a daemon's log.
type line struct {
	Level    string   `json:"level"`
	Msg      string   `json:"msg"`
	Session  string   `json:"session"`
	Protocol string   `json:"protocol"`
	User     string   `json:"user"`
	Client   string   `json:"client"`
	Home     string   `json:"home"`
	Node     string   `json:"node"`
	Result   string   `json:"result"`
	Reason   string   `json:"reason"`
	To       []string `json:"to"`
	Replies  []string `json:"replies"`
}

// lines returns the lines of a daemon's log that match.
func lines(t testing.TB, path string, match func(line) bool) []line {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []line
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var l line
		if json.Unmarshal(s.Bytes(), &l) == nil && match(l) {
			out = append(out, l)
		}
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// awaitLine waits until one line of the log matches, and returns the first.
func awaitLine(t testing.TB, path, what string, match func(line) bool) line {
	t.Helper()
	var found []line
	eventually(t, "a line in "+filepath.Base(path)+" about "+what, func() error {
		if found = lines(t, path, match); len(found) == 0 {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	return found[0]
}

// sessionOf matches a user's finished sessions of a protocol.
func sessionOf(protocol, user string) func(line) bool {
	return func(l line) bool { return l.Msg == "session" && l.Protocol == protocol && l.User == user }
}

// checkSecrets looks for every secret of the cluster in every log, as it is
// and inside base64 (SASL).
func (c *cluster) checkSecrets(t testing.TB) {
	t.Helper()
	secrets := []string{c.Secret, c.proxySecret}
	c.mu.Lock()
	for _, a := range c.accounts {
		secrets = append(secrets, a.Password)
	}
	c.mu.Unlock()
	logs, err := filepath.Glob(filepath.Join(c.Spec.Dir, "*.log"))
	if err != nil || len(logs) == 0 {
		t.Errorf("no logs: %v", err)
	}
	for _, path := range logs {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		}
		for _, s := range secrets {
			for _, form := range secretForms(s) {
				if bytes.Contains(text, []byte(form)) {
					t.Errorf("%s has a secret in it, as %q", path, form)
				}
			}
		}
	}
}

// secretForms returns a secret and what it looks like inside base64, at each of
// the three places that it can begin at.
func secretForms(s string) []string {
	forms := []string{s}
	for before := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString(slices.Concat(make([]byte, before), []byte(s)))
		// The first and the last group also hold bits of the neighbours.
		first := (before*8 + 5) / 6
		last := len(encoded) - 1
		forms = append(forms, encoded[first:last])
	}
	return forms
}

func TestSecretForms(t *testing.T) {
	for _, around := range [][2]string{{"", ""}, {"x", "y"}, {"xx", "y"}, {"xxx", ""}, {"\x00anna\x00", ""}} {
		encoded := base64.StdEncoding.EncodeToString([]byte(around[0] + "a long secret" + around[1]))
		if !slices.ContainsFunc(secretForms("a long secret"), func(form string) bool { return bytes.Contains([]byte(encoded), []byte(form)) }) {
			t.Errorf("not found in %s between %q", encoded, around)
		}
	}
}

// counts is an error unless there are as many as wanted.
func counts(got, want int) error {
	if got != want {
		return fmt.Errorf("there are %d, want %d", got, want)
	}
	return nil
}
