package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// bench is one comparison.
type bench struct {
	ctx  context.Context
	o    *options
	dir  string
	stub stubAddresses
	load *helper

	cert, key, both string // files, PEM; both has certificate and key
	jobs            int
}

// compare measures everything that is asked for. Results come with an error
// when it ended early.
func compare(ctx context.Context, o *options) (*results, error) {
	for _, c := range []string{"taskset"} {
		if _, err := exec.LookPath(c); err != nil {
			return nil, err
		}
	}
	if err := manyDescriptors(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "bench-peers-")
	if err != nil {
		return nil, err
	}
	// The proxies that give up root read their files here.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	if o.keep {
		fmt.Fprintln(os.Stderr, "files are in", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	b := &bench{ctx: ctx, o: o, dir: dir}
	if err := b.prepare(); err != nil {
		return nil, err
	}
	stub, err := startHelper("stub", o.loadCore)
	if err != nil {
		return nil, err
	}
	defer stub.stop()
	if err := stub.out.Decode(&b.stub); err != nil {
		return nil, fmt.Errorf("start the stub: %w", err)
	}
	if b.load, err = startHelper("load", o.loadCore); err != nil {
		return nil, err
	}
	defer b.load.stop()
	// An end by signal or limit ends what the load is waiting for, too.
	defer context.AfterFunc(ctx, b.load.stop)()
	return b.rounds()
}

// manyDescriptors raises the limit for this process and those it starts.
func manyDescriptors() error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	l.Cur = l.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
}

// prepare makes the certificate, and proxyd.
func (b *bench) prepare() error {
	if err := b.makeCertificate(); err != nil {
		return err
	}
	if !slices.ContainsFunc(b.o.peers, func(p peer) bool { return p.name == ours }) {
		return nil
	}
	if b.o.proxyd == "" {
		b.o.proxyd = filepath.Join(b.dir, "proxyd")
		out, err := exec.CommandContext(b.ctx, "go", "build", "-o", b.o.proxyd, "switchyard/cmd/proxyd").CombinedOutput()
		if err != nil {
			return fmt.Errorf("build proxyd: %w\n%s", err, out)
		}
	}
	var err error
	b.o.proxyd, err = filepath.Abs(b.o.proxyd)
	return err
}

// withCertificate puts the certificate's files into a piece of configuration.
func (b *bench) withCertificate(text string) string {
	return strings.NewReplacer("${cert}", b.cert, "${key}", b.key).Replace(text)
}

// rounds goes through works and proxies, one measurement after the other. Each
// round begins with another proxy, so that none is always the first after a
// change of work.
func (b *bench) rounds() (*results, error) {
	r := newResults(b.o)
	for round := range b.o.rounds {
		for _, w := range b.o.works {
			for i := range b.o.peers {
				p := b.o.peers[(i+round)%len(b.o.peers)]
				if r.failed(w, p) {
					continue
				}
				s, err := b.measure(w, p)
				if b.ctx.Err() != nil {
					return r, context.Cause(b.ctx)
				}
				r.add(w, p, s, err)
				fmt.Fprintf(os.Stderr, "round %d/%d  %-11s %-10s %s\n", round+1, b.o.rounds, w.name, p.name, r.last(w, p))
			}
		}
	}
	r.load = loadAverage()
	return r, nil
}

// measure starts one proxy, gives it one work, and ends it.
func (b *bench) measure(w work, p peer) (s sample, err error) {
	b.jobs++
	dir := filepath.Join(b.dir, fmt.Sprintf("%03d-%s-%s", b.jobs, w.name, p.name))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return s, err
	}
	address, err := freeAddress()
	if err != nil {
		return s, err
	}
	run, err := p.start(b, job{service: w.service, tls: w.tls, dir: dir, address: address, stub: b.stub[w.service]})
	if err != nil {
		return s, err
	}
	defer run.stop()
	if err := run.proxy.ready(b.ctx, address); err != nil {
		return s, err
	}
	order := loadOrder{Service: w.service, TLS: w.tls, Address: address, Concurrency: b.o.concurrency}
	// Every user once: caches are filled, pages touched.
	order.Do = "run"
	if _, err := b.ask(order); err != nil {
		return s, explain(err, run.proxy)
	}
	switch w.kind {
	case logins:
		s, err = b.measureLogins(run, order)
	case bulk:
		s, err = b.measureBulk(run, order)
	case idle:
		s, err = b.measureIdle(run, order, p.many)
	}
	return s, explain(err, run.proxy)
}

// explain adds the proxy's last words to an error.
func explain(err error, p *process) error {
	if err == nil {
		return nil
	}
	if last := p.lastLine(); len(last) > 0 {
		return fmt.Errorf("%w (its log: %s)", err, last)
	}
	return err
}

func (b *bench) ask(o loadOrder) (loadResult, error) {
	var r loadResult
	if err := b.load.ask(o, &r); err != nil {
		return r, fmt.Errorf("the load: %w", err)
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

// afterwards is how long a proxy may tidy up behind its last session before its
// CPU is read.
const afterwards = 200 * time.Millisecond

// sample is one measurement, in the unit of the work.
type sample struct{ proxy, helper float64 }

func (s sample) sum() float64 { return s.proxy + s.helper }

// spent runs one order and returns the CPU that proxy and helper used for it.
func (b *bench) spent(run *running, o loadOrder) (r loadResult, proxy, helper time.Duration, err error) {
	read := func() (p, h time.Duration, err error) {
		if p, err = cpuOf(run.proxy); err == nil {
			h, err = cpuOf(run.helper)
		}
		return p, h, err
	}
	p0, h0, err := read()
	if err != nil {
		return r, 0, 0, err
	}
	if r, err = b.ask(o); err != nil {
		return r, 0, 0, err
	}
	time.Sleep(afterwards)
	p1, h1, err := read()
	return r, p1 - p0, h1 - h0, err
}

func (b *bench) measureLogins(run *running, o loadOrder) (sample, error) {
	o.Do, o.Duration = "run", b.o.duration
	r, proxy, helper, err := b.spent(run, o)
	if err != nil {
		return sample{}, err
	}
	if r.Sessions == 0 {
		return sample{}, errors.New("no session was completed")
	}
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(r.Sessions) }
	return sample{each(proxy), each(helper)}, nil
}

func (b *bench) measureBulk(run *running, o loadOrder) (sample, error) {
	o.Do, o.Megabytes = "bulk", b.o.megabytes
	r, proxy, helper, err := b.spent(run, o)
	if err != nil {
		return sample{}, err
	}
	each := func(d time.Duration) float64 { return float64(d.Milliseconds()) / float64(r.Bytes) * 1e9 }
	return sample{each(proxy), each(helper)}, nil
}

// measureIdle takes the slope of the memory between few and many sessions: what
// the program needs anyway is not in it.
func (b *bench) measureIdle(run *running, o loadOrder, most int) (sample, error) {
	few, many := b.o.few, b.o.many
	if most > 0 && many > most {
		few, many = most/6, most
	}
	defer b.load.ask(loadOrder{Do: "drop"}, new(loadResult))
	at := func(n int) (int64, error) {
		o.Do, o.Sessions = "hold", n
		if _, err := b.ask(o); err != nil {
			return 0, err
		}
		return b.atRest(run.proxy)
	}
	lower, err := at(few)
	if err != nil {
		return sample{}, err
	}
	upper, err := at(many)
	if err != nil {
		return sample{}, err
	}
	return sample{proxy: float64(upper-lower) / float64(many-few)}, nil
}

// atRest waits until the memory no longer falls, at most the settling time.
func (b *bench) atRest(p *process) (int64, error) {
	const pause = time.Second
	end := time.Now().Add(b.o.settle)
	least, still := int64(-1), 0
	for {
		select {
		case <-b.ctx.Done():
			return 0, context.Cause(b.ctx)
		case <-time.After(pause):
		}
		now, err := pssOf(p)
		if err != nil {
			return 0, err
		}
		if least < 0 || now < least-least/500 {
			least, still = now, 0
		} else {
			still++
		}
		if still == 3 || time.Now().After(end) {
			return now, nil
		}
	}
}
