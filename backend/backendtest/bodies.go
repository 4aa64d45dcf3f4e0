package backendtest

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"switchyard/backend"
)

// sizes are lengths of bodies around what stores might treat differently.
var sizes = []int{0, 1, 4096, 256<<10 - 1, 256 << 10, 256<<10 + 1, 1 << 20, 1<<20 + 1, 3<<20 + 17}

func testBodies(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u := account(t, s, "ann")
	r := rand.New(rand.NewPCG(1, 1))
	for _, size := range sizes {
		for name, text := range map[string][]byte{"words": words(r, size), "noise": noise(r, size)} {
			d, err := u.Deliver(ctx, backend.Delivery{Incoming: backend.Incoming{Body: bytes.NewReader(text), Size: int64(size)}})
			must(t, err)
			if got := body(t, u, d.Mailbox, d.UID); got != string(text) {
				t.Errorf("%s of %d bytes came back different", name, size)
			}
			b, err := u.Body(ctx, d.Mailbox, d.UID)
			must(t, err)
			for range 20 {
				off, buf := r.IntN(size+2), make([]byte, r.IntN(5000))
				n, err := b.ReadAt(buf, int64(off))
				want := text[min(off, size):min(off+len(buf), size)]
				if !bytes.Equal(buf[:n], want) || (n < len(buf)) != (err == io.EOF) {
					t.Fatalf("%s of %d: ReadAt(%d, %d) gives %d, %v", name, size, len(buf), off, n, err)
				}
			}
			if b.Size() != int64(size) {
				t.Errorf("size %d, want %d", b.Size(), size)
			}
			must(t, b.Close())
		}
	}
}

func words(r *rand.Rand, n int) []byte {
	list := []string{"the ", "mail ", "goes ", "through\r\n", "every ", "tier "}
	var b bytes.Buffer
	for b.Len() < n {
		b.WriteString(list[r.IntN(len(list))])
	}
	return b.Bytes()[:n]
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func testStructure(t *testing.T, s backend.Store) {
	ctx := t.Context()
	u := account(t, s, "ann")
	const text = "Subject: two parts\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" +
		"--b\r\n\r\none\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>two\r\n--b--\r\n"
	d, err := u.Deliver(ctx, backend.Delivery{Incoming: incoming(text)})
	must(t, err)
	p, err := u.Structure(ctx, d.Mailbox, d.UID)
	must(t, err)
	if p.Type != "multipart" || len(p.Parts) != 2 || p.Parts[1].Subtype != "html" || p.Envelope == nil || p.Envelope.Subject != "two parts" {
		t.Fatalf("structure %+v", p)
	}
	second := p.Parts[1]
	if got := text[second.BodyStart:second.End]; got != "<p>two" {
		t.Errorf("the second part is %q", got)
	}
	out, err := u.Copy(ctx, d.Mailbox, []backend.UID{d.UID}, "Sent")
	must(t, err)
	if p, err := u.Structure(ctx, out.Mailbox, out.Dest[0]); err != nil || len(p.Parts) != 2 {
		t.Errorf("structure of a copy: %+v, %v", p, err)
	}
}
