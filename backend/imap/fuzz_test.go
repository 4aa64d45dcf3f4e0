package imap

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// FuzzSession lets a client say anything, before login or behind it. The
// session must end when the client has gone, and every line that begins with
// the client's tag must be an answer.
func FuzzSession(f *testing.F) {
	for _, s := range []string{
		"a1 LOGIN {3+}\r\nada {3}\r\nxyz\r\n", "a1 AUTHENTICATE PLAIN\r\n=\r\na2 ID (\"a\" NIL)\r\na3 CAPABILITY\r\n", "a STARTTLS\r\nb NOOP\r\n",
		"a SELECT INBOX\r\nb FETCH 1:* (BODY[] BODYSTRUCTURE ENVELOPE BINARY[1] BODY[HEADER.FIELDS (Subject)]<1.2>)\r\nc SEARCH OR BODY x NOT SENTON 1-Jan-2026\r\n",
		"a SELECT INBOX\r\nb STORE 1 +FLAGS (\\Deleted)\r\nc COPY 1 INBOX\r\nd UID MOVE 1:* Trash\r\ne EXPUNGE\r\nf IDLE\r\nDONE\r\ng CLOSE\r\n",
		"a APPEND INBOX (\\Seen) {5+}\r\nA: b\n (x) ~{3+}\r\n\x00\r\n\r\nb LIST (SUBSCRIBED) \"\" (% *) RETURN (STATUS (MESSAGES))\r\nc LSUB \"\" %\r\n",
		"a ENABLE QRESYNC\r\nb SELECT INBOX (QRESYNC (1 1 1:5 (1 1)))\r\nc UID FETCH 1:* (PREVIEW (LAZY)) (CHANGEDSINCE 1 VANISHED PARTIAL -1:-2)\r\nd SORT (REVERSE DATE) UTF-8 ALL\r\n",
		"a ENABLE UIDONLY\r\nb SELECT INBOX\r\nc UID THREAD REFERENCES UTF-8 ALL\r\nd UID REPLACE 1 INBOX {3+}\r\na:b\r\ne UID SORT RETURN (PARTIAL 1:2 SAVE) (SUBJECT) UTF-8 TEXT x\r\nf COMPRESS DEFLATE\r\n",
		"a ENABLE IMAP4rev2 CONDSTORE\r\nb CREATE \"a/\xc3\xbc\"\r\nc RENAME a b\r\nd DELETE b\r\ne STATUS INBOX (SIZE)\r\nf NAMESPACE\r\ng UNSELECT\r\n",
	} {
		f.Add(s, false)
		f.Add(s, true)
	}
	fix := start(f, Options{DataTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second, LoginTimeout: 5 * time.Second, MaxAppend: 10000})
	fix.append(f, "ada", "INBOX", testMessage(f, "forwarded.eml"))
	fix.append(f, "ada", "INBOX", testMessage(f, "groups.eml"), `\Deleted`)
	f.Fuzz(func(t *testing.T, text string, loggedIn bool) {
		client, end := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() { fix.srv.Serve(t.Context(), end) })
		var said bytes.Buffer
		wg.Go(func() { io.Copy(&said, client) })
		if loggedIn {
			io.WriteString(client, "q7f3e9 LOGIN ada@example.test secret\r\n")
		}
		io.WriteString(client, text)
		io.WriteString(client, "\r\nq7f3e9 LOGOUT\r\n")
		client.Close()
		wg.Wait()
		for line := range strings.SplitSeq(said.String(), "\r\n") {
			rest, tagged := strings.CutPrefix(line, "q7f3e9 ")
			if tagged && !strings.HasPrefix(rest, "OK ") && !strings.HasPrefix(rest, "NO ") && !strings.HasPrefix(rest, "BAD ") {
				t.Fatalf("got %q", line)
			}
		}
	})
}
