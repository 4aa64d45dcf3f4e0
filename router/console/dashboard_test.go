package console_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"switchyard/internal/daemon"
	"switchyard/internal/tlsconf"
	"switchyard/lookup/cache"
	"switchyard/router/console"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// known are the metrics that a proxy shows, with their labels.
func known(t *testing.T) map[string][]string {
	t.Helper()
	r := start(t)
	r.client(true)
	registry := prometheus.NewPedanticRegistry()
	for _, c := range []prometheus.Collector{
		console.Metrics(r.proxy.Router), console.CacheMetrics(func() cache.Stats { return cache.Stats{} }),
		daemon.CertificateMetrics(func() []tlsconf.Status { return make([]tlsconf.Status, 1) }),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := registry.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string][]string)
	for _, f := range families {
		labels := []string{"instance", "job"} // the scrape's own
		for _, m := range f.Metric {
			for _, l := range m.Label {
				labels = append(labels, l.GetName())
			}
		}
		if f.GetType().String() == "HISTOGRAM" {
			out[f.GetName()+"_bucket"] = append(labels, "le")
			continue
		}
		out[f.GetName()] = labels
	}
	return out
}

var (
	names     = regexp.MustCompile(`\b(switchyard|process|go)_[a-z_]+`)
	groupings = regexp.MustCompile(`\bby \(([^)]*)\)`)
	matchers  = regexp.MustCompile(`([a-z_]+)(?:=~|!~|!=|=)"`)
	legends   = regexp.MustCompile(`\{\{(\w+)\}\}`)
)

// TestDashboard: each metric and label that the dashboard names is there, each of
// the proxy's metrics is shown, and no two panels overlap.
func TestDashboard(t *testing.T) {
	b, err := os.ReadFile("../../deploy/grafana/switchyard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(b, &dashboard); err != nil {
		t.Fatal(err)
	}
	metrics := known(t)
	shown := make(map[string]bool)
	ids := make(map[int]bool)
	cells := make(map[[2]int]string)
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("%s: a second panel %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := cells[at]; other != "" || at[0] >= 24 {
					t.Fatalf("%s lies over %s", p.Title, other)
				}
				cells[at] = p.Title
			}
		}
		for _, target := range p.Targets {
			var labels []string
			for _, name := range names.FindAllString(target.Expr, -1) {
				if metrics[name] == nil {
					t.Errorf("%s: there is no metric %s", p.Title, name)
				}
				labels = append(labels, metrics[name]...)
				shown[name] = true
			}
			used := legends.FindAllStringSubmatch(target.LegendFormat, -1)
			used = append(used, matchers.FindAllStringSubmatch(target.Expr, -1)...)
			for _, by := range groupings.FindAllStringSubmatch(target.Expr, -1) {
				for label := range strings.SplitSeq(by[1], ", ") {
					used = append(used, []string{"", label})
				}
			}
			for _, u := range used {
				if !slices.Contains(labels, u[1]) {
					t.Errorf("%s: %s has no label %s", p.Title, target.Expr, u[1])
				}
			}
		}
	}
	for name := range metrics {
		if strings.HasPrefix(name, "switchyard_") && !shown[name] {
			t.Errorf("%s is not shown", name)
		}
	}
	if len(shown) < 20 {
		t.Errorf("only %d metrics are shown", len(shown))
	}
}
