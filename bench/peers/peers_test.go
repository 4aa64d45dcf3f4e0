package main

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestParseStat: a program's name may hold spaces and parentheses, and children
// that were waited for count.
func TestParseStat(t *testing.T) {
	line := "4242 (a) b (c)) S 17 4242 4242 0 -1 4194560 100 0 0 0 11 22 33 44 20 0 1 0 98765 1000 200 18446744073709551615"
	s, err := parseStat([]byte(line))
	want := stat{pid: 4242, parent: 17, cpu: 1100 * time.Millisecond, born: 98765}
	if err != nil || s != want {
		t.Errorf("%+v %v, want %+v", s, err, want)
	}
	for _, bad := range []string{"", "1", "1 (x", "1 x) S", "1 (x) S 1 2", strings.Replace(line, "11", "x", 1), strings.Replace(line, "4242 (", "x (", 1)} {
		if s, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, s)
		}
	}
}

// TestOwnProcess: what is parsed is what this kernel writes.
func TestOwnProcess(t *testing.T) {
	s, err := readStat(os.Getpid())
	if err != nil || s.pid != os.Getpid() || s.parent != os.Getppid() || s.born == 0 {
		t.Errorf("%+v %v", s, err)
	}
	family, err := processes(os.Getppid())
	if err != nil || !slices.ContainsFunc(family, func(s stat) bool { return s.pid == os.Getpid() }) {
		t.Errorf("the parent's processes lack this one: %+v %v", family, err)
	}
	rollup, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		t.Skip(err)
	}
	if n, err := parsePSS(rollup); err != nil || n < 100<<10 {
		t.Errorf("%d bytes: %v", n, err)
	}
}

// TestDescendants: the whole tree and nobody else.
func TestDescendants(t *testing.T) {
	all := []stat{{pid: 1}, {pid: 5, parent: 1}, {pid: 7, parent: 5}, {pid: 6, parent: 5}, {pid: 9, parent: 7}, {pid: 8, parent: 1}}
	var got []int
	for _, s := range descendants(all, 5) {
		got = append(got, s.pid)
	}
	slices.Sort(got)
	if !slices.Equal(got, []int{5, 6, 7, 9}) {
		t.Error(got)
	}
	if left := descendants(all, 4); len(left) != 0 {
		t.Error(left)
	}
}

func TestParsePSS(t *testing.T) {
	n, err := parsePSS([]byte("5581 ---p 00000000 00:00 0  [rollup]\nRss:            9000 kB\nPss:            1234 kB\nPss_Dirty:      1 kB\n"))
	if err != nil || n != 1234<<10 {
		t.Error(n, err)
	}
	if n, err := parsePSS([]byte("Rss: 1 kB\nPss_Dirty: 1 kB\n")); err == nil {
		t.Error(n)
	}
}

func TestNumbers(t *testing.T) {
	for x, want := range map[float64]string{0: "0", 999.4: "999", 1000: "1,000", 1234567: "1,234,567", -4321: "-4,321"} {
		if got := number(x); got != want {
			t.Errorf("%v: %s, want %s", x, got, want)
		}
	}
	for _, c := range []struct {
		xs   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(c.xs); got != c.want {
			t.Errorf("%v: %v, want %v", c.xs, got, c.want)
		}
	}
}

func TestVersionIn(t *testing.T) {
	for text, want := range map[string]string{
		"HAProxy version 2.6.12-1+deb12u4 2026/10/17": "2.6.12",
		"2.3.19.1 (9b53102964)":                       "2.3.19.1",
		"nothing":                                     "",
	} {
		if got := versionIn(text, ""); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := versionIn("nginx version: nginx/1.22.1", "nginx/"); got != "1.22.1" {
		t.Error(got)
	}
}

// TestFlags: names are checked before anything is started, and -quick leaves
// alone what was said.
func TestFlags(t *testing.T) {
	o, err := parseFlags([]string{"-quick", "-rounds", "4", "-only", "imap-tls,imap-plain", "-peers", "proxyd,nginx"})
	if err != nil {
		t.Fatal(err)
	}
	if o.rounds != 4 || o.duration != time.Second || len(o.works) != 2 || o.works[0].name != "imap-plain" || len(o.peers) != 2 || o.peers[1].name != ours {
		t.Errorf("%+v", o)
	}
	for _, bad := range [][]string{{"-only", "imap"}, {"-peers", "exim"}, {"-few", "10", "-many", "10"}, {"-rounds", "0"}, {"more"}} {
		if _, err := parseFlags(bad); err == nil {
			t.Errorf("%v: accepted", bad)
		}
	}
}

// TestTable: medians, ratios of the same rounds, reasons for what is missing.
func TestTable(t *testing.T) {
	o, err := parseFlags([]string{"-rounds", "3", "-only", "imap-plain,lmtp,idle-plain", "-peers", "nginx,dovecot,proxyd"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range o.peers {
		o.peers[i].version = func() (string, error) { return "1.2", nil }
	}
	login, lmtp, idle := o.works[0], o.works[1], o.works[2]
	engine, dove, own := o.peers[0], o.peers[1], o.peers[2]
	r := newResults(o)
	for round, s := range []struct{ nginx, proxyd sample }{
		{sample{proxy: 100, helper: 50}, sample{proxy: 90}},   // 0.6
		{sample{proxy: 1000, helper: 600}, sample{proxy: 80}}, // 0.05
		{sample{proxy: 120, helper: 80}, sample{proxy: 100}},  // 0.5
	} {
		r.round = round
		r.add(login, engine, s.nginx, nil)
		r.add(login, own, s.proxyd, nil)
		r.add(idle, own, sample{proxy: float64(2000 + round)}, nil)
		if !r.hopeless(lmtp, engine) {
			r.add(lmtp, engine, sample{}, errUnsupported)
		}
		if round == 1 {
			r.add(lmtp, dove, sample{}, errors.New("it rained"))
		} else {
			r.add(lmtp, dove, sample{proxy: 1500}, nil)
		}
		r.add(lmtp, own, sample{proxy: float64(1000 - round)}, nil)
	}
	text := r.markdown()
	for _, want := range []string{
		"| | nginx mail | Dovecot | Switchyard | bar | Switchyard against it | |\n|---|--:|--:|--:|---|--:|---|\n",
		"| IMAP login, plain, CPU µs | 120 + 80 | – | 90 | ≤ 0.75 × nginx | 0.50 × (0.05–0.60) | met |\n",
		"| LMTP message of 2 kB, CPU µs | – | 1,500 | 999 | ≤ 0.50 × dovecot | 0.67 × (0.67–0.67) | missed |\n",
		"| idle session, plain, PSS bytes | – | – | 2,001 | ≤ 1,000 | 2,001 | missed |\n",
		"LMTP message of 2 kB, Dovecot: missing in 1 of 3 rounds: it rained\n",
		"nginx mail 1.2, Dovecot 1.2, Switchyard 1.2;",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the table lacks %q", want)
		}
	}
	if strings.Contains(text, errUnsupported.Error()) {
		t.Error("that nginx has no LMTP needs no reason")
	}
	if t.Failed() {
		t.Log(text)
	}
}
