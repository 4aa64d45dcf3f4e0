package store

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"switchyard/backend"
)

// childDir, in the environment, makes the test binary a process to be killed.
const childDir = "STORE_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
		return
	}
	os.Exit(m.Run())
}

const killSessions = 6

func killText(n int) string {
	return fmt.Sprintf("Subject: %d\r\nMessage-ID: <%d@x>\r\n\r\n%s", n, n, strings.Repeat("some line of text\r\n", 20))
}

func killID(n int) (id [32]byte) {
	copy(id[:], fmt.Sprint("delivery ", n))
	return id
}

// child delivers without end, and changes flags, moves and queues between; each
// answer is a line on the standard output, written before the next call.
func child(dir string) {
	s, err := Open(dir, Options{FS: vfs.Default, SegmentLimit: 20_000, MemTable: 256 << 10})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	start, _ := strconv.Atoi(os.Getenv("STORE_TEST_CHILD_START"))
	var next atomic.Int64
	next.Store(int64(start))
	ctx := context.Background()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			if _, err := s.Compact(ctx); err != nil {
				panic(err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	for i := range killSessions {
		wg.Go(func() {
			u, err := s.CreateUser(ctx, fmt.Sprint("user", i%2), 1)
			if err != nil {
				panic(err)
			}
			for {
				n := int(next.Add(1))
				d, err := u.Deliver(ctx, backend.Delivery{Incoming: in(killText(n)), ID: killID(n)})
				if err != nil {
					panic(err)
				}
				fmt.Printf("delivered %d user%d\n", n, i%2)
				if n%3 == 0 {
					if _, err := u.Move(ctx, d.Mailbox, []backend.UID{d.UID}, "Archive"); err != nil {
						panic(err)
					}
					fmt.Printf("moved %d user%d\n", n, i%2)
				}
				if n%4 == 0 && n%3 != 0 { // so that there is something to compact
					if _, err := u.Append(ctx, "Junk", []backend.Incoming{in(strings.Repeat(killText(n), 20))}); err != nil {
						panic(err)
					}
					junk, err := u.Mailbox(ctx, "Junk")
					if err != nil {
						panic(err)
					}
					if _, err := u.Expunge(ctx, junk.ID, nil, false); err != nil {
						panic(err)
					}
				}
				if n%5 == 0 {
					id, err := s.QueueAdd(ctx, fmt.Append(nil, n), strings.NewReader(killText(n)), int64(len(killText(n))))
					if err != nil {
						panic(err)
					}
					fmt.Printf("queued %d %d\n", n, id)
				}
			}
		})
	}
	wg.Wait()
}

// TestKill kills a process that uses a store on the disk, again and again, and
// looks each time at what its answers promised.
func TestKill(t *testing.T) {
	t.Parallel()
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{} // message to user, as answered
	moved, queued := map[string]bool{}, map[string]string{}
	start := 0
	for round := range rounds {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), childDir+"="+dir, fmt.Sprint("STORE_TEST_CHILD_START=", start))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, quit := bufio.NewScanner(out), 20+rand.IntN(100)
		for n := 0; lines.Scan(); n++ {
			f := strings.Fields(lines.Text())
			switch f[0] {
			case "delivered":
				told[f[1]] = f[2]
				if v, _ := strconv.Atoi(f[1]); v > start {
					start = v
				}
			case "moved":
				moved[f[1]] = true
			case "queued":
				queued[f[2]] = f[1]
			default:
				t.Fatalf("child says %q", lines.Text())
			}
			if n == quit {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		if stderr.Len() > 0 {
			t.Fatalf("child: %s", stderr.String())
		}
		start += 2 * killSessions // beyond what was under way
		checkKilled(t, dir, start, told, moved, queued)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	t.Logf("%d deliveries, %d moves, %d queue entries answered over %d kills", len(told), len(moved), len(queued), rounds)
}

// checkKilled opens what a killed process left.
func checkKilled(t *testing.T, dir string, start int, told map[string]string, moved map[string]bool, queued map[string]string) {
	t.Helper()
	ctx := t.Context()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	if err := s.Check(ctx); err != nil {
		t.Error(err)
	}
	// Deliveries that may have been under way are sent again.
	for n := max(1, start-3*killSessions); n <= start; n++ {
		if who, ok := told[fmt.Sprint(n)]; ok {
			d, err := userOf(t, s, who).Deliver(ctx, backend.Delivery{Incoming: in(killText(n)), ID: killID(n)})
			if err != nil || !d.Duplicate {
				t.Errorf("delivery %d was answered, and is no duplicate now: %v", n, err)
			}
		}
	}
	found := map[string]int{}
	for i := range 2 {
		who := fmt.Sprint("user", i)
		u := userOf(t, s, who)
		for _, name := range []string{"INBOX", "Archive"} {
			b, err := u.Mailbox(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			v, err := u.View(ctx, b.ID)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range v.Messages.All() {
				body := bodyOf(t, u, b.ID, m.UID)
				n := strings.TrimSpace(strings.TrimPrefix(body[:strings.Index(body, "\r\n")], "Subject: "))
				found[n]++
				if v, _ := strconv.Atoi(n); body != killText(v) {
					t.Errorf("message %s is not what was sent", n)
				}
				if moved[n] && name == "INBOX" {
					t.Errorf("message %s was moved, and is in INBOX", n)
				}
			}
		}
	}
	for n, times := range found {
		if times != 1 {
			t.Errorf("message %s is there %d times", n, times)
		}
	}
	for n := range told {
		if found[n] == 0 {
			t.Errorf("message %s was acknowledged, and is lost", n)
		}
	}
	seen := map[string]string{}
	err = s.QueueScan(ctx, func(id uint64, entry []byte) bool { seen[fmt.Sprint(id)] = string(entry); return true })
	if err != nil {
		t.Error(err)
	}
	for id, n := range queued {
		if seen[id] != n {
			t.Errorf("queue entry %s says %q, want %q", id, seen[id], n)
		}
	}
}
