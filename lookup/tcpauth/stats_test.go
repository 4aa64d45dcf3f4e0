package tcpauth

import (
	"errors"
	"testing"

	"switchyard/lookup/internal/authent"
)

// TestStats: every answer counts once under its verb, with a tag and without,
// given at once or later.
func TestStats(t *testing.T) {
	for _, c := range []struct {
		what string
		make func(*memory) Database
	}{{"waits", func(m *memory) Database { return m }}, {"immediate", func(m *memory) Database { return homes{m} }}} {
		m := newMemory()
		s := serveAny(t, c.make(m), ServerOptions{})
		p := connect(t, s.address)
		say := func(command, want string) {
			t.Helper()
			p.send(command + "\n")
			if got := p.line(); !matches(got, want) {
				t.Errorf("%s: %s: got %q, want %s", c.what, command, got, want)
			}
		}
		say(`set anna@x.test p tohost="b1"`, "+OK")
		say("lookup anna@x.test", "+OK")
		say("#1 lookup anna@x.test", "+OK")
		say("lookup nobody@x.test", "-ERR")
		say("check anna@x.test p", "+OK")
		say("#2 check anna@x.test wrong", "-ERR")
		say("xcheck anna@x.test %70", "+OK")
		say("rubbish", "-ERR")
		say("del nobody@x.test", "-ERR")
		m.set(func(m *memory) { m.fail = errors.New("away") })
		say("lookup anna@x.test", "-DEAD")
		say("#3 check anna@x.test p", "-DEAD")
		stats := s.server.Stats()
		for verb, want := range map[authent.Verb]Answers{
			authent.Lookup: {OK: 2, Err: 1, Dead: 1}, authent.Check: {OK: 2, Err: 1, Dead: 1}, authent.Set: {OK: 1}, authent.Delete: {Err: 1}, authent.Search: {}, "": {Err: 1},
		} {
			if got := stats.Answers[verb]; got != want {
				t.Errorf("%s: %q: got %+v, want %+v", c.what, verb, got, want)
			}
		}
		if stats.Connections != 1 {
			t.Errorf("%s: %d connections", c.what, stats.Connections)
		}
		p.conn.Close()
		eventually(t, "the connection is gone", func() bool { return s.server.Stats().Connections == 0 })
	}
}

// matches reports whether an answer is of a kind, behind its tag if it has one.
func matches(line, kind string) bool {
	bare := []byte(line)
	if isTagged(bare) {
		var err error
		if _, _, bare, err = parseTagged(bare); err != nil {
			return false
		}
	}
	r, err := authent.ParseReply(string(bare))
	return err == nil && r.Kind == authent.Kind(kind)
}
