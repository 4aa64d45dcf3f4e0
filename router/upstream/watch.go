package upstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"switchyard/internal/probe"
	"switchyard/router/upstream/check"

	"go.uber.org/zap"
)

// checks are how the services are asked.
var checks = map[Service]check.Func{
	IMAP: check.IMAP, POP3: check.POP3, Submission: check.SMTP, LMTP: check.LMTP, ManageSieve: check.ManageSieve,
}

// checkGap is the shortest time between two checks of the same service of a
// node, however many sessions fail there.
const checkGap = time.Second

// Run checks the nodes' health until ctx ends, each service of each node by
// itself, those that Update adds included. It returns nil, when the last check
// has ended. Without it the sessions alone find out how the nodes are.
func (s *Set) Run(ctx context.Context) error {
	s.watching.Store(true)
	defer s.watching.Store(false)
	room := make(chan struct{}, s.o.Checks)
	var work sync.WaitGroup
	defer work.Wait()
	under := make(map[*endpoint]context.CancelFunc)
	for {
		s.mu.Lock()
		top, changed := s.top.Load(), s.changed
		s.mu.Unlock()
		still := make(map[*endpoint]bool)
		for _, g := range top.backends {
			for _, n := range g.nodes {
				for _, e := range n.services {
					still[e] = true
					if under[e] != nil {
						continue
					}
					ctx, cancel := context.WithCancel(ctx)
					under[e] = cancel
					work.Go(func() { s.watch(ctx, e, room) })
				}
			}
		}
		for e, cancel := range under {
			if !still[e] {
				cancel()
				delete(under, e)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			for _, cancel := range under {
				cancel()
			}
			return nil
		}
	}
}

// watch checks one service of a node again and again.
func (s *Set) watch(ctx context.Context, e *endpoint, room chan struct{}) {
	timer := time.NewTimer(rand.N(s.o.CheckDown)) // not all at once
	defer timer.Stop()
	var last time.Time
	for {
		select {
		case <-timer.C:
		case <-e.wake:
			if wait := checkGap - time.Since(last); wait > 0 {
				timer.Reset(wait)
				continue
			}
		case <-ctx.Done():
			return
		}
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		last = time.Now()
		s.check(ctx, e)
		<-room
		if ctx.Err() != nil {
			return
		}
		wait := s.o.CheckUp
		if e.health.current() != Up {
			wait = s.o.CheckDown
		}
		timer.Reset(vary(wait))
	}
}

// vary leaves 30 % of a time to chance.
func vary(d time.Duration) time.Duration {
	return d - d*3/10 + rand.N(max(d*6/10, 1))
}

// check asks a service of a node how it is, and counts the answer.
func (s *Set) check(ctx context.Context, e *endpoint) {
	r, err := s.ask(ctx, e)
	if ctx.Err() != nil {
		return
	}
	if err == nil && r.Word == probe.NotReady {
		s.fail(e, failure{at: telling, err: fmt.Errorf("the node says that it is not ready: %s", r.Text)})
		return
	}
	if err != nil {
		s.fail(e, failure{at: checking, err: err})
		return
	}
	wish := ""
	if r.Word == probe.Drain {
		if wish = r.Text; wish == "" {
			wish = "no reason given"
		}
	}
	s.told(e, r.Refused, wish)
	s.succeed(e, checking)
}

// told takes over what else a check brought to light, and logs what is new.
func (s *Set) told(e *endpoint, refused, wish string) {
	if !e.health.says(refused, wish) {
		return
	}
	fields := []zap.Field{zap.String("home", e.backend), zap.String("node", e.node), zap.String("service", string(e.service))}
	switch {
	case refused != "":
		s.o.Logger.Error("health check cannot log in: proxy name and secret must be the same here and on the backend, the proxy's address must be in the backend's proxy networks, and the connection must use TLS; or mend the backend's probe account",
			append(fields, zap.String("reason", refused))...)
	case wish != "":
		s.o.Logger.Warn("node asks for no new sessions", append(fields, zap.String("reason", wish))...)
		e.lane.turn()
	default:
		s.o.Logger.Info("node takes sessions and logins", fields...)
	}
}

// ask connects and asks.
func (s *Set) ask(ctx context.Context, e *endpoint) (check.Result, error) {
	until := time.Now().Add(s.o.CheckTimeout)
	dialCtx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	conn, err := s.o.Dial(dialCtx, "tcp", e.at.Load().Address)
	if err != nil {
		return check.Result{}, err
	}
	b, err := s.secure(ctx, until, conn, e)
	if err != nil {
		return check.Result{}, err
	}
	defer b.Close()
	b.Conn.SetDeadline(until)
	ask := checks[e.service]
	if ask == nil {
		return check.Result{Answer: probe.Answer{Word: probe.Ready}}, nil // a connection has to do
	}
	n := &check.Node{Conn: b.Conn, Login: b.Login, Account: *e.probe.Load(), Hostname: s.o.Hostname, Heard: func(offer map[string]string) {
		if e.offers.learn(offer, false) {
			s.commons.forget(e.service)
		}
	}}
	if b.WantsStartTLS() {
		n.StartTLS = b.StartTLS
	}
	return ask(ctx, n)
}
