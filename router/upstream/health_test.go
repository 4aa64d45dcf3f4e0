package upstream

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestBreaker: a sequence of what is seen of a node, and what is made of it. The
// breaker opens on evidence about the node only.
//
// c: a connect fails, t12: a login of client 1 and account 2 fails, k: a check
// fails, r: the node says that it is not ready; C, T, K: the same succeed; a
// number of seconds between underscores: time passes.
func TestBreaker(t *testing.T) {
	for seen, want := range map[string]State{
		"":                                       Up,
		"c11":                                    Suspect, // costs nothing: there is a peer to go to, or none
		"c11 c11 c11 c11":                        Suspect, // one client alone, whatever happens
		"c11 c22 c11":                            Down,
		"c11 c22":                                Suspect,
		"c11 c12 c13 c14":                        Suspect, // one client with many accounts
		"c11 c21 c31 c41":                        Suspect, // many clients of one account
		"t11":                                    Up,      // may be for the client's or the account's sake
		"t11 t11 t11 t11 t11":                    Up,
		"t11 t21 t31 t41 t51":                    Up, // one account's broken mailbox
		"t11 t12 t13 t14 t15":                    Up, // one client that the node has banned
		"t11 t22":                                Suspect,
		"t11 t22 t33":                            Down,
		"t11 T t22 T t33":                        Up, // not in a row
		"t11 t11 t11 t22":                        Down,
		"k":                                      Suspect,
		"k k":                                    Suspect,
		"k k k":                                  Down,
		"k k K k":                                Suspect,
		"r":                                      Down,
		"k k k K":                                Suspect,
		"k k k K K":                              Up,
		"r K K":                                  Up,
		"c11 C":                                  Suspect,
		"c11 C C":                                Up,
		"t11 t22 C C":                            Suspect, // connects were not what failed
		"k k k C C":                              Down,
		"t11 t22 T T":                            Up,
		"t11 t22 t33 K K":                        Down, // checks do not close at once what clients opened
		"t11 t22 t33 _6_ K K":                    Up,
		"t11 t22 t33 T":                          Suspect, // a trial's login may
		"t11 t22 t33 _6_ K K t11 t22 t33 _6_ K":  Down,    // the second time it takes longer
		"t11 t22 t33 _6_ K K t11 t22 t33 _11_ K": Suspect,
		"t11 t22 t33 _6_ K K _99_ t11 t22 t33 _6_ K": Suspect, // and not for ever
	} {
		synctest.Test(t, func(t *testing.T) {
			var o Options
			o.fill()
			var h health
			h.init(&o, time.Now())
			for _, event := range strings.Fields(seen) {
				at := map[byte]stage{'c': connecting, 't': talking, 'k': checking, 'r': telling}
				f := failure{at: at[event[0]], err: errors.New("as told")}
				if len(event) == 3 && event[0] != '_' {
					f.client, f.account = netip.AddrFrom4([4]byte{192, 0, 2, event[1]}), event[2:]
				}
				switch {
				case event[0] == '_':
					d, err := time.ParseDuration(strings.Trim(event, "_") + "s")
					if err != nil {
						t.Fatal(err)
					}
					time.Sleep(d)
				case event[0] < 'a':
					h.succeed(time.Now(), at[event[0]+'a'-'A'])
				default:
					h.fail(time.Now(), f)
				}
			}
			if got := h.current(); got != want {
				t.Errorf("%q: got %v, want %v", seen, got, want)
			}
		})
	}
}

// TestTrial: what is down is tried by one session at a time, when its time has
// come, and not while failures go on.
func TestTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o Options
		o.fill()
		var h health
		h.init(&o, time.Now())
		fail := func() { h.fail(time.Now(), failure{at: checking, err: errors.New("dead")}) }
		fail()
		fail()
		fail()
		want := func(r rank) {
			t.Helper()
			if got := h.rank(time.Now()); got != r {
				t.Errorf("got %v, want %v", got, r)
			}
		}
		want(unusable)
		time.Sleep(4 * time.Second)
		fail()
		time.Sleep(4 * time.Second)
		want(unusable)
		time.Sleep(time.Second)
		want(onTrial)
		if !h.try() || h.try() {
			t.Error("not one trial")
		}
		want(unusable)
		h.tried()
		want(onTrial)
		h.succeed(time.Now(), talking)
		h.succeed(time.Now(), talking)
		want(preferred)
	})
}

// TestLate: a connect that a peer's overtook is evidence the second time.
func TestLate(t *testing.T) {
	var o Options
	o.fill()
	var h health
	h.init(&o, time.Now())
	f := failure{at: connecting, err: errSlow}
	h.late(time.Now(), f)
	h.succeed(time.Now(), connecting)
	h.late(time.Now(), f)
	if h.current() != Up {
		t.Error("not in a row")
	}
	h.late(time.Now(), f)
	if h.current() != Suspect {
		t.Error("twice in a row is nothing")
	}
}

// TestStateText: states are words in JSON, both ways.
func TestStateText(t *testing.T) {
	for s := range States {
		text, err := s.MarshalText()
		var back State
		if err != nil || back.UnmarshalText(text) != nil || back != s {
			t.Errorf("%v: got %s, %v, %v", s, text, back, err)
		}
	}
	if new(State).UnmarshalText([]byte("asleep")) == nil {
		t.Error("a state that is none")
	}
}
