package routertest

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Dialog is a script of testdata/dialogs; see the README there.
type Dialog struct {
	Name     string
	Protocol string
	Against  []string
	script   string
}

// Dialogs reads the dialogues of a directory that are to be played against
// something.
func Dialogs(t T, dir, against string) []Dialog {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var out []Dialog
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d := Dialog{Name: strings.TrimSuffix(filepath.Base(file), ".txt"), script: string(text)}
		for line := range strings.SplitSeq(d.script, "\n") {
			head, found := strings.CutPrefix(line, "#: ")
			if !found {
				continue
			}
			switch words := strings.Fields(head); {
			case len(words) == 2 && words[0] == "protocol":
				d.Protocol = words[1]
			case len(words) > 1 && words[0] == "against":
				d.Against = words[1:]
			default:
				t.Fatalf("%s: %q means nothing", file, line)
			}
		}
		if d.Protocol == "" || len(d.Against) == 0 {
			t.Fatalf("%s: protocol or against is missing", file)
		}
		if slices.Contains(d.Against, against) {
			out = append(out, d)
		}
	}
	if len(out) == 0 {
		t.Fatalf("no dialogue in %s is played against %s", dir, against)
	}
	return out
}

// Play plays the client's side on conn for an account, and closes it.
func (d Dialog) Play(t T, conn net.Conn, user, password string) {
	t.Helper()
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	script := strings.NewReplacer(
		"$USERLEN", fmt.Sprint(len(user)), "$PASSWORDLEN", fmt.Sprint(len(password)),
		"$USER64", encode(user), "$PASSWORD64", encode(password),
		"$PLAIN", encode("\x00"+user+"\x00"+password), "$WRONG", encode("\x00"+user+"\x00wrong"),
		"$USER", user, "$PASSWORD", password,
	).Replace(d.script)
	PlayClient(t, conn, nil, script)
}

// PlayClient plays the client's side of a script on conn, and closes it. config is
// for the TLS step.
func PlayClient(t T, conn net.Conn, config *tls.Config, script string) {
	t.Helper()
	pl := newPlayer(conn, "C", config)
	if err := pl.play(script); err != nil {
		t.Errorf("client's script: %v", err)
	}
	pl.conn.Close()
}
