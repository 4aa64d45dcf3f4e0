package textindex

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"switchyard/backend"
	"switchyard/backend/store"
	"switchyard/internal/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is an account's mail with an index over it.
type fixture struct {
	t     testing.TB
	fs    vfs.FS
	user  backend.User
	index *Index
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	s, err := store.Open("store", store.Options{FS: vfs.NewMem(), MemTable: 1 << 20, Fatal: func(err error) { t.Error(err) }})
	must(t, err)
	u, err := s.CreateUser(t.Context(), "ann@example.test", 1)
	must(t, err)
	f := &fixture{t: t, fs: vfs.NewMem(), user: u}
	f.open()
	t.Cleanup(func() {
		f.index.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	var err error
	f.index, err = Open("index", Options{FS: f.fs})
	must(f.t, err)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) append(mailbox string, texts ...string) {
	f.t.Helper()
	var in []backend.Incoming
	for _, text := range texts {
		in = append(in, backend.Incoming{Body: strings.NewReader(text), Size: int64(len(text))})
	}
	_, err := f.user.Append(f.t.Context(), mailbox, in)
	must(f.t, err)
}

func (f *fixture) view(mailbox string) backend.View {
	f.t.Helper()
	m, err := f.user.Mailbox(f.t.Context(), mailbox)
	must(f.t, err)
	v, err := f.user.View(f.t.Context(), m.ID)
	must(f.t, err)
	return v
}

func (f *fixture) find(mailbox, text string, zone Zone) []Hit {
	f.t.Helper()
	v := f.view(mailbox)
	hits, err := f.index.Find(f.t.Context(), f.user, v.Mailbox.ID, v.Messages, text, zone)
	must(f.t, err)
	return hits
}

// truth reads every message.
func (f *fixture) truth(mailbox, text string, zone Zone) []bool {
	f.t.Helper()
	v, needle := f.view(mailbox), message.NewNeedle(text)
	var out []bool
	for _, m := range v.Messages.All() {
		root, err := f.user.Structure(f.t.Context(), v.Mailbox.ID, m.UID)
		must(f.t, err)
		body, err := f.user.Body(f.t.Context(), v.Mailbox.ID, m.UID)
		must(f.t, err)
		hit := false
		if zone == Text {
			hit, err = needle.InHeader(body, root, "")
			must(f.t, err)
		}
		if !hit {
			hit, err = needle.InBody(body, root)
			must(f.t, err)
		}
		out = append(out, hit)
		body.Close()
	}
	return out
}

// check compares what the index says with what is there.
func (f *fixture) check(mailbox, text string, zone Zone) (maybes int) {
	f.t.Helper()
	truth := f.truth(mailbox, text, zone)
	for i, hit := range f.find(mailbox, text, zone) {
		if hit == Maybe {
			maybes++
		}
		if hit == Yes && !truth[i] || hit == No && truth[i] {
			f.t.Errorf("%q in %d of message %d of %s: the index says %d, the message %v", text, zone, i, mailbox, hit, truth[i])
		}
	}
	return maybes
}

// samples are real messages, with one of each kind of text.
func samples(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("../../testdata/messages/*.eml")
	must(t, err)
	if len(files) < 10 {
		t.Fatalf("%d sample messages", len(files))
	}
	var out []string
	for _, file := range files {
		b, err := os.ReadFile(file)
		must(t, err)
		out = append(out, string(b))
	}
	return append(out,
		"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe_aus_K=C3=B6ln?=\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nStra=DFe und Caf=E9, m=FC=\r\nde\r\n",
		"Subject: long\r\n\r\n"+strings.Repeat("0123456789abcdefghijklmnopqrstuvwxyz", 20)+" end\r\n",
		"Subject: =?utf-8?b?5pel5pys6Kqe?=\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"+strings.Repeat("日本語の文章は空白なしに続く。", 10)+"\r\n",
		"Subject: parts\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\nX-Inner: hidden treasure\r\n\r\n<p>para</p>\r\n--b\r\nContent-Type: application/x; name=blob.bin\r\n\r\nsecretbinary\r\n--b--\r\n",
		"no header here\r\n")
}

// TestNeedles: whatever is asked, Yes and No are true; and a needle of one word
// is answered without a look at any message.
func TestNeedles(t *testing.T) {
	f := newFixture(t)
	texts := samples(t)
	f.append("INBOX", texts...)
	for _, text := range []string{
		"grüsse", "GRÜSSE", "köln", "straße", "STRASSE", "café", "cafe", "müde", "de", "日本", "空白なし", "語", "treasure", "blob", "secretbinary",
		"hidden treasure", "x-inner: hidden", "para</p>", "no header", "subject: long", "z0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefg",
		strings.Repeat("0123456789abcdefghijklmnopqrstuvwxyz", 3), "xyz end", "z end", "f end", " ", "", "\n", "@", "a", "\x00", "zzzzqqq", "İstanbul", "ﬁ",
	} {
		for _, zone := range []Zone{Body, Text} {
			maybes := f.check("INBOX", text, zone)
			if n := newNeedle(text); n.exact && maybes > 0 {
				t.Errorf("%q: %d messages have to be read", text, maybes)
			}
		}
	}
}

// TestNeedlesAtRandom takes needles out of the messages themselves.
func TestNeedlesAtRandom(t *testing.T) {
	f := newFixture(t)
	texts := samples(t)
	f.append("INBOX", texts...)
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.SampledFrom(texts).Draw(rt, "message")
		from := rapid.IntRange(0, len(text)-1).Draw(rt, "from")
		needle := strings.ToValidUTF8(text[from:min(len(text), from+rapid.IntRange(1, 60).Draw(rt, "length"))], "")
		f.check("INBOX", needle, rapid.SampledFrom([]Zone{Body, Text}).Draw(rt, "zone"))
		if t.Failed() {
			rt.FailNow()
		}
	})
}

// TestLife: messages come, go, are moved and copied, the index is closed, lost
// and damaged, and what it says stays true. Blocks become fewer by themselves.
func TestLife(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	text := func(n int) string {
		return fmt.Sprintf("Subject: number %d\r\nFrom: a%d@example.test\r\n\r\nword%d and more of %d\r\n", n, n%7, n, n%3)
	}
	for n := range 60 {
		f.append("INBOX", text(n), text(1000+n))
		f.check("INBOX", fmt.Sprintf("word%d", n), Body)
	}
	inbox := f.view("INBOX")
	a, err := f.index.use("ann@example.test")
	must(t, err)
	if n := len(a.heads); n > smallBlocks {
		t.Errorf("%d blocks", n)
	}
	f.index.release(a)

	uids := []backend.UID{1, 2, 3}
	_, err = f.user.Move(ctx, inbox.Mailbox.ID, uids, "Archive")
	must(t, err)
	if f.check("Archive", "word0", Body); f.find("Archive", "word0", Body)[0] != Yes {
		t.Error("a moved message is not known")
	}
	must(t, f.index.Close())
	f.open()
	f.check("INBOX", "word59", Text)
	f.check("INBOX", "example.test", Text)

	// Most of them go: what is gone leaves the index.
	for round := range 6 {
		var more []string
		for n := range 200 {
			more = append(more, text(2000+200*round+n))
		}
		f.append("Junk", more...)
		f.check("Junk", "2199", Text)
		junk := f.view("Junk")
		_, err = f.user.Expunge(ctx, junk.Mailbox.ID, nil, false)
		must(t, err)
	}
	f.append("Junk", text(1))
	f.check("Junk", "word1", Text)
	if a, err = f.index.use("ann@example.test"); err == nil {
		if n := len(a.at); n > 700 {
			t.Errorf("%d messages in the index, most of them gone", n)
		}
		f.index.release(a)
	}

	// Damage.
	for id := range a.heads {
		must(t, f.index.db.Set(keyBlock(a.name, rowWords, id), []byte("\x00\x00\xff\xffnonsense"), pebble.NoSync))
	}
	f.check("INBOX", "word59", Body)
	if maybes := f.check("INBOX", "word59", Body); maybes > 0 {
		t.Errorf("made again, %d messages have to be read", maybes)
	}
}

// TestCrash: without its last writes the index is behind, and not wrong.
func TestCrash(t *testing.T) {
	f := newFixture(t)
	mem := vfs.NewCrashableMem()
	f.index.Close()
	f.fs = mem
	f.open()
	f.append("INBOX", samples(t)...)
	f.check("INBOX", "subject", Text)
	must(t, f.index.db.Flush())
	f.append("INBOX", "Subject: later\r\n\r\nlater\r\n")
	f.check("INBOX", "later", Text)
	for range 5 {
		clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(1, 2))})
		x, err := Open("index", Options{FS: clone})
		must(t, err)
		before := f.index
		f.index = x
		f.check("INBOX", "later", Text)
		f.check("INBOX", "subject", Text)
		f.index = before
		must(t, x.Close())
	}
}

// TestBounds: a message with more words than are kept is read, and is not
// missed.
func TestBounds(t *testing.T) {
	f := newFixture(t)
	var b strings.Builder
	b.WriteString("Subject: many\r\n\r\n")
	for n := range maxWords + 10 {
		fmt.Fprintf(&b, "w%d\r\n", n)
	}
	f.append("INBOX", b.String(), "Subject: few\r\n\r\nw1\r\n")
	last := fmt.Sprintf("w%d", maxWords+9)
	if maybes := f.check("INBOX", last, Body); maybes != 1 {
		t.Errorf("%d messages have to be read for %s, want 1", maybes, last)
	}
	if hits := f.find("INBOX", "w1\r", Body); hits[1] == No {
		t.Error("the second message is missed")
	}
}

// TestTogether: searches of one account at the same time.
func TestTogether(t *testing.T) {
	f := newFixture(t)
	f.append("INBOX", samples(t)...)
	v := f.view("INBOX")
	done := make(chan error)
	for n := range 8 {
		go func() {
			ctx := context.Background()
			_, err := f.index.Find(ctx, f.user, v.Mailbox.ID, v.Messages, fmt.Sprint("word", n), Text)
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	a, err := f.index.use("ann@example.test")
	must(t, err)
	defer f.index.release(a)
	if n := len(a.heads); n != 1 {
		t.Errorf("%d blocks, want 1", n)
	}
}

// FuzzBlock reads blocks of any bytes.
func FuzzBlock(f *testing.F) {
	b := newBuilder()
	b.add(backend.GUID{1}, &words{all: map[string]where{"A": inBody, "AB": inHeader}})
	b.add(backend.GUID{2}, &words{all: map[string]where{"B": inBody}, over: true})
	f.Add(b.head(), b.encode(), "a")
	f.Fuzz(func(t *testing.T, head, encoded []byte, text string) {
		guids, over, err := readHead(head)
		if err != nil {
			return
		}
		b, err := readBlock(guids, over, encoded)
		if err != nil {
			return
		}
		_, _ = b.find(newNeedle(text))
		_ = newBuilder().merge(b, func(backend.GUID) bool { return true })
	})
}

// BenchmarkFind searches a mailbox of 10,000 messages of 4 KB.
func BenchmarkFind(b *testing.B) {
	f := newFixture(b)
	rng := rand.New(rand.NewPCG(1, 2))
	var texts []string
	for n := range 10_000 {
		var m strings.Builder
		fmt.Fprintf(&m, "Subject: number %d\r\nMessage-ID: <%x.%x@example.test>\r\n\r\n", n, rng.Uint64(), rng.Uint64())
		for m.Len() < 4000 {
			fmt.Fprintf(&m, "w%d ", int(rng.ExpFloat64()*3000))
			if rng.IntN(12) == 0 {
				m.WriteString("\r\n")
			}
		}
		texts = append(texts, m.String())
	}
	for at := 0; at < len(texts); at += 500 {
		f.append("INBOX", texts[at:at+500]...)
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			must(b, f.index.Forget("ann@example.test"))
			f.find("INBOX", "w20000", Text)
		}
	})
	b.Run("word", func(b *testing.B) {
		for b.Loop() {
			f.find("INBOX", "w20000", Text)
		}
	})
	b.Run("part", func(b *testing.B) {
		for b.Loop() {
			f.find("INBOX", "99", Text)
		}
	})
	metrics := f.index.db.Metrics()
	b.ReportMetric(float64(metrics.DiskSpaceUsage())/1e6, "MB")
}
