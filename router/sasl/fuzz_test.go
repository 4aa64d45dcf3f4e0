package sasl

import (
	"errors"
	"strings"
	"testing"

	"switchyard/internal/wire"
)

// FuzzClientFirst: any message is read or refused, nothing is let in by it, and
// the library behind Serve reads no other name than the parser.
func FuzzClientFirst(f *testing.F) {
	for _, s := range []string{
		"n,,n=anna,r=fyko", "y,a=b,n=a=2Cb,r=x", "p=tls-exporter,,n=a,r=x", "p=tls-unique,,n=a,r=x", "n,,m=ext,n=a,r=x", "n,a==,n=a,r=x", ",,,,", "n,,n=a,r=,",
	} {
		f.Add([]byte(s), []byte("c=biws,r=fyko,p=AAAA"))
	}
	o := Options{Secret: testSecret}
	f.Fuzz(func(t *testing.T, message, final []byte) {
		first, err := ParseClientFirst(message)
		if err != nil {
			if !errors.Is(err, wire.ErrSASL) {
				t.Fatalf("%q: %v", message, err)
			}
			return
		}
		if first.Username == "" || strings.ContainsAny(first.Username, "\r\n\x00") || first.Flag == 'p' != (first.Binding != "") {
			t.Fatalf("%q: %+v", message, first)
		}
		calls := 0
		err = Serve(first, o.Invent(SCRAMSHA256, first.Username), &Binding{Name: first.Binding, Data: []byte("here")}, false, func([]byte) ([]byte, error) {
			calls++
			return final, nil
		})
		if !errors.Is(err, ErrFailed) && !errors.Is(err, wire.ErrSASL) {
			t.Fatalf("%q, %q: let in: %v", message, final, err)
		}
		if calls > 1 {
			t.Fatalf("%q, %q: the server proved itself to nobody", message, final)
		}
	})
}

// FuzzBearer: any message is read or refused; what is read is a token that can
// stand in a header, and no error holds it.
func FuzzBearer(f *testing.F) {
	for _, s := range []string{
		"n,a=anna@x,\x01host=h\x01port=143\x01auth=Bearer tok.en\x01\x01", "user=anna@x\x01auth=Bearer tok.en\x01\x01", "n,,\x01\x01", "user=\x01", "n,a==,\x01auth=Bearer a\x01\x01",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		for _, parse := range []func([]byte) (Bearer, error){ParseOAuthBearer, ParseXOAuth2} {
			b, err := parse(message)
			switch {
			case err == nil && (b.Token == "" || strings.ContainsAny(b.Token, " \r\n\x00\x01")):
				t.Fatalf("%q: token %q", message, b.Token)
			case err != nil && (!errors.Is(err, wire.ErrSASL) || b != Bearer{}):
				t.Fatalf("%q: %v, %v", message, b, err)
			}
		}
	})
}
