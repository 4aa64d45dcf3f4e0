package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/lookup/lookuptest"
	"switchyard/lookup/tcpauth"
)

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
		<-tick.C
	}
}

// get asks the admin listener.
func (p *process) get(path string) (int, string) {
	p.t.Helper()
	resp, err := http.Get("http://" + p.admin + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(text)
}

// status is the page /replica.
func (p *process) status() (s struct {
	Whole  bool   `json:"whole"`
	Behind uint64 `json:"behind"`
	Mark   string `json:"mark"`
	Newest string `json:"newest"`
}) {
	_, text := p.get("/replica")
	json.Unmarshal([]byte(text), &s)
	return s
}

// TestReplication: a primary is killed under changes, a replica is killed and
// started again, and in the end both have the same users.
func TestReplication(t *testing.T) {
	t.Parallel()
	primaryDir := writeConfig(t, freeAddress(t), `replicas = ["127.0.0.0/8"]`)
	primary := start(t, primaryDir)
	replicaDir := writeConfig(t, "127.0.0.1:0", fmt.Sprintf("primary = %q", primary.address))
	primary.kill()

	// Without a copy it answers nothing, and is not ready.
	replica := start(t, replicaDir)
	if _, err := replica.client(tcpauth.ClientOptions{}).Lookup(t.Context(), "anna@x.test"); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("lookup without a copy: got %v, want unavailable", err)
	}
	if code, text := replica.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(text, "no copy of the users") {
		t.Errorf("readyz without a copy: %d, %s", code, text)
	}
	primary = start(t, primaryDir)
	eventually(t, "the first copy", func() bool { return replica.status().Whole })

	const users = 12
	password := "p"
	seed := primary.client(tcpauth.ClientOptions{Timeout: patience})
	for i := range users {
		if err := seed.Set(t.Context(), fmt.Sprintf("user%d@x.test", i), &password, map[string]string{"tohost": "b0"}); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 4 {
		ctx, cancel := context.WithCancel(t.Context())
		c := primary.client(tcpauth.ClientOptions{Timeout: patience})
		var wg sync.WaitGroup
		enough := make(chan struct{})
		var once sync.Once
		for i := range users {
			wg.Go(func() {
				for n := 0; ; n++ {
					name := fmt.Sprintf("user%d@x.test", i)
					labels := map[string]string{"n": fmt.Sprint(round, ".", n), "tohost": fmt.Sprint("b", n)}
					if c.Set(ctx, name, nil, labels) != nil {
						return
					}
					if n == 20 {
						once.Do(func() { close(enough) })
					}
				}
			})
		}
		<-enough
		if round%2 == 1 {
			replica.kill()
		}
		primary.kill()
		cancel()
		wg.Wait()
		if round%2 == 1 {
			replica = start(t, replicaDir)
		}
		// Reads go on while the primary is away.
		if a, err := replica.client(tcpauth.ClientOptions{}).Lookup(t.Context(), "user0@x.test"); err != nil || a.Generation == 0 {
			t.Errorf("lookup at the replica without the primary: %+v, %v", a, err)
		}
		if code, _ := replica.get("/readyz"); code != http.StatusOK {
			t.Errorf("readyz without the primary: %d", code)
		}
		primary = start(t, primaryDir)
	}
	client := replica.client(tcpauth.ClientOptions{Timeout: patience})
	err := client.Set(t.Context(), "user0@x.test", nil, map[string]string{"n": "x"})
	var refused *tcpauth.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), primary.address) {
		t.Errorf("set at the replica: got %v, want a refusal that names %s", err, primary.address)
	}
	c := primary.client(tcpauth.ClientOptions{Timeout: patience})
	if err := c.Set(t.Context(), "last@x.test", &password, map[string]string{"tohost": "b7"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the replica has caught up", func() bool {
		a, err := client.Lookup(t.Context(), "last@x.test")
		return err == nil && a.Home == "b7"
	})
	if s := replica.status(); s.Behind != 0 || s.Mark == "" || s.Mark != s.Newest {
		t.Errorf("status: %+v", s)
	}
	if v, err := client.Version(t.Context()); err != nil || !strings.Contains(v, "replica-of="+primary.address) || !strings.Contains(v, "behind=0") {
		t.Errorf("version: %q, %v", v, err)
	}
	if _, err := client.Check(t.Context(), lookup.Credentials{Name: "last@x.test", Password: "p"}); err != nil {
		t.Errorf("check at the replica: %v", err)
	}
	primary.kill()
	replica.kill()
	want, got := export(t, primaryDir), export(t, replicaDir)
	if want != got || strings.Count(want, "\n") != users+1 {
		t.Errorf("the primary has\n%s\nthe replica\n%s", want, got)
	}
}

// A client that is in none of the named networks gets no copy.
func TestReplicasAreNamed(t *testing.T) {
	t.Parallel()
	primary := start(t, writeConfig(t, "127.0.0.1:0"))
	replica := start(t, writeConfig(t, "127.0.0.1:0", fmt.Sprintf("primary = %q", primary.address)))
	eventually(t, "the primary refuses", func() bool {
		text, _ := os.ReadFile(filepath.Join(replica.dir, "log"))
		return bytes.Contains(text, []byte("may not copy the database"))
	})
	if replica.status().Whole {
		t.Error("it has a copy")
	}
}

// TestReplicaContract: a replica is a directory like any other.
func TestReplicaContract(t *testing.T) {
	t.Parallel()
	primaryDir := writeConfig(t, "127.0.0.1:0", `replicas = ["127.0.0.0/8"]`)
	load(t, primaryDir)
	primary := start(t, primaryDir)
	replica := start(t, writeConfig(t, "127.0.0.1:0", fmt.Sprintf("primary = %q", primary.address)))
	eventually(t, "the first copy", func() bool { return replica.status().Whole })
	primary.kill()
	lookuptest.Run(t, lookuptest.Fixture{Open: func(t *testing.T) lookup.Directory {
		return replica.client(tcpauth.ClientOptions{Timeout: patience})
	}})
}

// TestFeed: the feed of a real process, watched by a real client; the process is
// killed and comes back.
func TestFeed(t *testing.T) {
	t.Parallel()
	dir := writeConfig(t, freeAddress(t))
	load(t, dir)
	runFeed(t, dir, func(*tcpauth.Client) {})
}

// runFeed holds the feed of the daemon in dir against the contract. Fill brings
// the suite's accounts, unless they are there.
func runFeed(t *testing.T, dir string, fill func(*tcpauth.Client)) {
	t.Helper()
	var p *process
	lookuptest.RunFeed(t, lookuptest.FeedFixture{
		Open: func(t *testing.T) lookup.Watcher {
			p = start(t, dir)
			c := p.client(tcpauth.ClientOptions{Timeout: patience})
			fill(c)
			return c
		},
		Set: func(t *testing.T, r lookuptest.Record) {
			c := p.client(tcpauth.ClientOptions{Timeout: patience})
			defer c.Close()
			password := &r.Password
			if _, err := c.Check(t.Context(), lookup.Credentials{Name: r.Name, Password: r.Password}); err == nil {
				password = nil
			}
			labels := map[string]string{"tohost": r.Home, "mailstatus": string(r.Status), "quota": fmt.Sprint(r.Quota)}
			if err := c.Set(t.Context(), r.Name, password, labels); err != nil {
				t.Fatal(err)
			}
		},
		Delete: func(t *testing.T, name string) {
			c := p.client(tcpauth.ClientOptions{Timeout: patience})
			defer c.Close()
			if err := c.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		},
		Interrupt: func(t *testing.T) {
			p.kill()
			p = start(t, dir)
		},
	})
}
