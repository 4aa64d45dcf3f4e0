package main

import (
	"context"
	"errors"
	"io"
	"sync/atomic"

	"go.uber.org/zap"

	"switchyard/backend"
	"switchyard/backend/queue"
	"switchyard/backend/sieve"
	"switchyard/conf"
	"switchyard/internal/daemon"
)

// rules delivers by the recipients' Sieve scripts, whose own mail goes into the
// queue. The queue wants it before there is one; until then nothing is delivered.
type rules struct {
	filter *sieve.Filter
	queue  atomic.Pointer[queue.Queue]
}

func newRules(c *conf.Config, log *zap.Logger) *rules {
	r := &rules{}
	r.filter = sieve.NewFilter(r, sieve.FilterOptions{
		Name: "Switchyard", Version: daemon.Version(), Host: c.Backendd.Hostname, Domain: c.Cluster.DefaultDomain, Logger: log.Named("sieve"),
	})
	return r
}

// Deliver implements queue.Filter.
func (r *rules) Deliver(ctx context.Context, u backend.User, d backend.Delivery, from, to string) (backend.Delivered, error) {
	done, err := r.filter.Deliver(ctx, u, sieve.Incoming{Delivery: d, Envelope: sieve.Envelope{From: from, To: to}})
	var reject *sieve.RejectError
	if errors.As(err, &reject) {
		return done, &queue.RejectedError{Reason: reject.Reason}
	}
	return done, err
}

// Send implements sieve.Outbound.
func (r *rules) Send(ctx context.Context, from, to string, body io.ReaderAt, size int64) error {
	q := r.queue.Load()
	if q == nil {
		return backend.ErrBusy
	}
	_, err := q.Accept(ctx, queue.Envelope{From: from, To: []queue.To{{Address: to}}}, body, size)
	return err
}
