package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"switchyard/bench/peers/load"
	"switchyard/bench/peers/stub"
)

// bench is one comparison.
type bench struct {
	ctx     context.Context
	o       *options
	dir     string
	backend stub.Addresses
	clients *helper

	cert, key, both string // files, PEM; both has certificate and key
	openssl         string // the configuration file of OpenSSL
	jobs            int
}

// compare measures everything that is asked for. Results come with an error
// when it ended early.
func compare(ctx context.Context, o *options) (*results, error) {
	if _, err := exec.LookPath("taskset"); err != nil {
		return nil, err
	}
	if err := manyDescriptors(); err != nil {
		return nil, err
	}
	b := &bench{ctx: ctx, o: o, dir: o.dir}
	if err := b.prepare(); err != nil {
		return nil, err
	}
	backend, err := startHelper(roleStub, o.loadCore)
	if err != nil {
		return nil, err
	}
	defer backend.stop()
	if err := backend.out.Decode(&b.backend); err != nil {
		return nil, fmt.Errorf("start the stub: %w", err)
	}
	if b.clients, err = startHelper(roleLoad, o.loadCore); err != nil {
		return nil, err
	}
	defer b.clients.stop()
	// An end by signal or limit ends what the load is waiting for, too.
	defer context.AfterFunc(ctx, b.clients.stop)()
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

// openSSL is the configuration of the library that all proxies use but ours. It
// would send two session tickets behind a TLS 1.3 handshake, whatever the
// proxy's own settings say: the clients want none, and nginx would wait for 40 ms
// until they are acknowledged.
const openSSL = `openssl_conf = all
[all]
ssl_conf = modules
[modules]
system_default = defaults
[defaults]
NumTickets = 0
`

// prepare makes the certificate.
func (b *bench) prepare() error {
	if err := b.makeCertificate(); err != nil {
		return err
	}
	b.openssl = filepath.Join(b.dir, "openssl.cnf")
	if err := os.WriteFile(b.openssl, []byte(openSSL), 0o644); err != nil {
		return err
	}
	return nil
}

// withCertificate puts the certificate's files into a piece of configuration.
func (b *bench) withCertificate(text string) string {
	return strings.NewReplacer("${cert}", b.cert, "${key}", b.key).Replace(text)
}

// rounds goes through the works, again and again.
func (b *bench) rounds() (*results, error) {
	r := newResults(b.o)
	for round := range b.o.rounds {
		r.round = round
		for _, w := range b.o.works {
			if w.kind == idle {
				if round < b.o.idleRounds {
					b.idleRound(w, r)
				}
			} else {
				b.busyRound(w, r)
			}
			if b.ctx.Err() != nil {
				return r, context.Cause(b.ctx)
			}
			for _, p := range b.o.peers {
				fmt.Fprintf(os.Stderr, "round %d/%d  %-11s %-10s %s\n", round+1, b.o.rounds, w.name, p.name, r.last(w, p))
			}
		}
	}
	r.load = loadAverage()
	return r, nil
}

// contender is a proxy that was started for a work.
type contender struct {
	peer
	*running
	order load.Order
}

// warmUp is how long a proxy without a cache gets used to the work.
const warmUp = 100 * time.Millisecond

// start starts a proxy for a work, and takes every user through it once: caches
// are filled, pages touched.
func (b *bench) start(w work, p peer) (*contender, error) {
	b.jobs++
	dir := filepath.Join(b.dir, fmt.Sprintf("%03d-%s-%s", b.jobs, w.name, p.name))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	run, err := p.start(b, job{service: w.service, tls: w.tls, dir: dir, address: address, stub: b.backend[w.service]})
	if err != nil {
		return nil, err
	}
	c := &contender{p, run, load.Order{Service: w.service, TLS: w.tls, Address: address, Concurrency: b.o.concurrency}}
	err = run.proxy.ready(b.ctx, address)
	if err == nil {
		order := c.order
		order.Do = "run"
		if p.forks {
			order.Duration = warmUp
		}
		_, err = b.ask(order)
		err = explain(err, run.proxy)
	}
	if err != nil {
		run.stop()
		return nil, err
	}
	return c, nil
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

func (b *bench) ask(o load.Order) (load.Result, error) {
	var r load.Result
	if err := b.clients.ask(o, &r); err != nil {
		return r, fmt.Errorf("the load: %w", err)
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}
