package origin

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var full = Origin{
	Session:    "0abc-1",
	Client:     netip.MustParseAddrPort("192.0.2.9:50123"),
	Local:      netip.MustParseAddrPort("[2001:db8::1]:993"),
	TLS:        true,
	TTL:        6,
	Generation: 12,
}

func TestRoundTrips(t *testing.T) {
	for name, o := range map[string]Origin{"full": full, "empty": {}, "v6": {Client: netip.MustParseAddrPort("[2001:db8::7]:1")}} {
		got, _, err := FromID(o.ID())
		if err != nil || got != o {
			t.Errorf("%s by ID: got %+v, %v, want %+v", name, got, err, o)
		}
		for _, d := range []Dialect{SMTP, POP3} {
			got, hasAddr, err := ParseXCLIENT(d, o.XCLIENT(d, XCLIENTNames()))
			if err != nil || got != o || hasAddr != o.Client.IsValid() {
				t.Errorf("%s by XCLIENT %d: got %+v, %v, %v, want %+v", name, d, got, hasAddr, err, o)
			}
		}
	}
}

func TestXCLIENTForms(t *testing.T) {
	if got, want := full.XCLIENT(SMTP, []string{"addr", "PORT", "DESTADDR"}), "DESTADDR=IPV6:2001:db8::1 PORT=50123 ADDR=192.0.2.9"; got != want {
		t.Errorf("SMTP: got %q, want %q", got, want)
	}
	if got := full.XCLIENT(SMTP, nil); got != "" {
		t.Errorf("nothing offered: got %q", got)
	}
	want := "SESSION=0abc-1 TTL=6 CLIENT-TRANSPORT=TLS FORWARD=aG9tZS1nZW5lcmF0aW9uPTEy DESTADDR=2001:db8::1 DESTPORT=993 PORT=50123 ADDR=192.0.2.9"
	if got := full.XCLIENT(POP3, nil); got != want {
		t.Errorf("POP3: got %q, want %q", got, want)
	}
	o := full
	o.HELO = "evil\r\nRSET =+"
	got := o.XCLIENT(SMTP, XCLIENTNames())
	if strings.ContainsAny(got, "\r\n") || !strings.Contains(got, "HELO=evil+0D+0ARSET+20+3D+2B ") {
		t.Errorf("hostile HELO: got %q", got)
	}
	if len("XCLIENT "+got) > 510 {
		t.Errorf("longer than an SMTP command line: %d", len(got))
	}
	o = Origin{Session: "a b\r\nX"}
	if got := o.XCLIENT(POP3, nil); got != "CLIENT-TRANSPORT=insecure" {
		t.Errorf("hostile session: got %q", got)
	}
}

func TestMalformed(t *testing.T) {
	for _, args := range []string{"ADDR", "ADDR=1.2.3", "ADDR=fe80::1%eth0", "PORT=70000", "PORT=-1", "TTL=0", "TTL=300", "SESSION=a+20b", "SESSION=",
		"FORWARD=!!", "WHAT=1", "ADDR=+zz", "ADDR=1.2.3.4=5", "FORWARD=aG9tZS1nZW5lcmF0aW9uPXg+3D", "SESSION=" + strings.Repeat("a", 65)} {
		if _, _, err := ParseXCLIENT(SMTP, args); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: got %v", args, err)
		}
	}
	if o, hasAddr, err := ParseXCLIENT(SMTP, "NAME=[UNAVAILABLE] LOGIN=admin PROTO=ESMTP"); err != nil || hasAddr || o != (Origin{}) {
		t.Errorf("read over: got %+v %v %v", o, hasAddr, err)
	}
	if _, ok, err := FromID([][2]string{{"name", "mutt"}}); ok || err != nil {
		t.Errorf("a client's own ID: got %v, %v", ok, err)
	}
	if _, _, err := FromID([][2]string{{"X-Originating-IP", "nowhere"}}); !errors.Is(err, ErrMalformed) {
		t.Errorf("bad address: got %v", err)
	}
}

func TestNewSession(t *testing.T) {
	now := time.UnixMilli(1_790_000_000_000)
	a, b, later := NewSession(now), NewSession(now), NewSession(now.Add(time.Second))
	if a == b || len(a) != 16 || !ValidSession(a) {
		t.Errorf("got %q, %q", a, b)
	}
	if !(a < later) || !(b < later) {
		t.Errorf("ids do not sort by time: %q %q %q", a, b, later)
	}
}

func FuzzParseXCLIENT(f *testing.F) {
	f.Add("ADDR=IPV6:::1 SESSION=x", true)
	f.Add(full.XCLIENT(POP3, nil), false)
	f.Fuzz(func(t *testing.T, args string, smtp bool) {
		d := POP3
		if smtp {
			d = SMTP
		}
		o, _, err := ParseXCLIENT(d, args)
		if err != nil {
			return
		}
		if out := o.XCLIENT(d, XCLIENTNames()); strings.ContainsAny(out, "\r\n\x00") {
			t.Fatalf("writes %q", out)
		}
	})
}

func FuzzXText(f *testing.F) {
	f.Add("a+b=c d\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := DecodeXText(XText(s))
		if err != nil || got != s {
			t.Fatalf("%q became %q, %v", s, got, err)
		}
	})
}
