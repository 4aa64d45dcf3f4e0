package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
)

// results is what was measured so far.
type results struct {
	o       *options
	round   int
	samples map[string][]sample // by work and peer; in the order of the rounds
	reasons map[string]error    // why a round has none, the last such reason
	before  string              // load averages
	load    string
}

func newResults(o *options) *results {
	return &results{o: o, samples: make(map[string][]sample), reasons: make(map[string]error), before: loadAverage()}
}

func cell(w work, p string) string { return w.name + " " + p }

func (r *results) add(w work, p peer, s sample, err error) {
	if err != nil {
		r.reasons[cell(w, p.name)] = err
		return
	}
	s.round = r.round
	r.samples[cell(w, p.name)] = append(r.samples[cell(w, p.name)], s)
}

// hopeless reports whether a proxy failed at a work and never did it: it is not
// tried again.
func (r *results) hopeless(w work, p peer) bool {
	return r.reasons[cell(w, p.name)] != nil && len(r.samples[cell(w, p.name)]) == 0
}

// last is this round's measurement, for the one who waits.
func (r *results) last(w work, p peer) string {
	all := r.samples[cell(w, p.name)]
	if len(all) == 0 || all[len(all)-1].round != r.round {
		if err := r.reasons[cell(w, p.name)]; err != nil {
			return "– " + err.Error()
		}
		return "– not in this round"
	}
	s := all[len(all)-1]
	if w.kind == idle {
		return s.String() + " " + w.kind.unit()
	}
	return fmt.Sprintf("%s %s, on the CPU for %.0f %% of the time", s, w.kind.unit(), s.busy*100)
}

func (s sample) String() string {
	if s.helper > 0 {
		return number(s.proxy) + " + " + number(s.helper)
	}
	return number(s.proxy)
}

// number writes 12345 as 12,345.
func number(x float64) string {
	digits := fmt.Sprintf("%.0f", x)
	sign := ""
	if digits[0] == '-' {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// markdown is the table with what has to be said about it.
func (r *results) markdown() string {
	var out strings.Builder
	out.WriteString("| |")
	for _, p := range r.o.peers {
		fmt.Fprintf(&out, " %s |", p.title)
	}
	out.WriteString(" bar | Switchyard against it | |\n|---|" + strings.Repeat("--:|", len(r.o.peers)) + "---|--:|---|\n")
	for _, w := range r.o.works {
		fmt.Fprintf(&out, "| %s, %s |", w.title, w.kind.unit())
		for _, p := range r.o.peers {
			fmt.Fprintf(&out, " %s |", r.median(w, p.name))
		}
		value, verdict := r.verdict(w)
		fmt.Fprintf(&out, " %s | %s | %s |\n", w.bar, value, verdict)
	}
	r.notes(&out)
	return out.String()
}

// median of the rounds, proxy and helper each for itself.
func (r *results) median(w work, p string) string {
	all := r.samples[cell(w, p)]
	if len(all) == 0 {
		return "–"
	}
	var proxy, helper []float64
	for _, s := range all {
		proxy, helper = append(proxy, s.proxy), append(helper, s.helper)
	}
	return sample{proxy: median(proxy), helper: median(helper)}.String()
}

// median of some numbers; of an even count, the mean of the two in the middle.
func median(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	xs = slices.Sorted(slices.Values(xs))
	n := len(xs)
	return (xs[(n-1)/2] + xs[n/2]) / 2
}

func (b bar) String() string {
	if b.peer == "" {
		return "≤ " + number(b.limit)
	}
	return fmt.Sprintf("≤ %.2f × %s", b.factor, b.peer)
}

// verdict compares proxyd with the bar: the median of the ratios, each taken
// inside a round, so that a round in which the machine was busy with something
// else counts for both.
func (r *results) verdict(w work) (value, verdict string) {
	own, other := r.samples[cell(w, ours)], r.samples[cell(w, w.bar.peer)]
	met := map[bool]string{true: "met", false: "missed"}
	var values []float64
	for _, s := range own {
		if w.bar.peer == "" {
			values = append(values, s.sum())
		} else if i := slices.IndexFunc(other, func(o sample) bool { return o.round == s.round }); i >= 0 {
			values = append(values, s.sum()/other[i].sum())
		}
	}
	if len(values) == 0 {
		return "–", ""
	}
	m := median(values)
	if w.bar.peer == "" {
		return number(m), met[m <= w.bar.limit]
	}
	return fmt.Sprintf("%.2f × (%.2f–%.2f)", m, slices.Min(values), slices.Max(values)), met[m <= w.bar.factor]
}

// notes says under which circumstances, and why cells are empty.
func (r *results) notes(out *strings.Builder) {
	var versions []string
	for _, p := range r.o.peers {
		v, err := p.version()
		if err != nil {
			v = "–"
		}
		versions = append(versions, p.title+" "+v)
	}
	fmt.Fprintf(out, "\n%s; %d cores, congestion control %s, one worker each on core %s, clients (%d at a time) and stub on core %s. Medians of %d rounds (idle: %d); helper's CPU behind the +; ratios are medians of the rounds' own ratios, with the least and the greatest. Idle: slope of PSS from %s to %s sessions. Load average before %s, after %s.\n",
		strings.Join(versions, ", "), runtime.NumCPU(), network(r.o.ownNetwork), r.o.proxyCore, r.o.concurrency, r.o.loadCore, r.o.rounds, min(r.o.rounds, r.o.idleRounds), number(float64(r.o.few)), number(float64(r.o.many)), r.before, r.load)
	for _, p := range r.o.peers {
		if p.forks && slices.ContainsFunc(r.o.works, func(w work) bool { return w.kind == idle }) {
			few, many := r.o.idleSessions(p)
			fmt.Fprintf(out, "%s has a process for each session: its slope is from %d to %d.\n", p.title, few, many)
		}
	}
	for _, w := range r.o.works {
		for _, p := range r.o.peers {
			if err := r.reasons[cell(w, p.name)]; err != nil && !errors.Is(err, errUnsupported) {
				fmt.Fprintf(out, "\n%s, %s: missing in %d of %d rounds: %v\n", w.title, p.title, r.missing(w, p), r.rounds(w), err)
			}
		}
	}
}

// rounds that a work takes part in.
func (r *results) rounds(w work) int {
	if w.kind == idle {
		return min(r.o.rounds, r.o.idleRounds)
	}
	return r.o.rounds
}

func (r *results) missing(w work, p peer) int { return r.rounds(w) - len(r.samples[cell(w, p.name)]) }

// loadAverage of the last minute, "–" where it cannot be read.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	first, _, _ := bytes.Cut(b, []byte(" "))
	if err != nil {
		return "–"
	}
	return string(first)
}
