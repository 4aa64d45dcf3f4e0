package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"switchyard/conf"
	"switchyard/lookup/nwauth"
	"switchyard/lookup/tcpauth"
)

// replica keeps the user database like its primary's, and tells how far behind
// it is.
type replica struct {
	primary string
	users   *nwauth.DB
	copy    *nwauth.Replica
	options tcpauth.FollowOptions
}

func newReplica(c *conf.Config, users *nwauth.DB, log *zap.Logger) (*replica, error) {
	config, err := primaryTLS(c)
	if err != nil {
		return nil, err
	}
	return &replica{
		primary: c.Tcpauthd.Primary,
		users:   users,
		copy:    users.Replica(),
		options: tcpauth.FollowOptions{Secret: c.Tcpauthd.Secret.Value(), TLS: config, Logger: log},
	}, nil
}

// follow ends with ctx.
func (r *replica) follow(ctx context.Context) error {
	return tcpauth.Follow(ctx, r.primary, r.copy, r.options)
}

// silence is how long nothing was heard of the primary; negative: never.
func silence(s nwauth.ReplicaStatus) time.Duration {
	if s.Heard.IsZero() {
		return -1
	}
	return time.Since(s.Heard).Round(time.Millisecond)
}

// state is shown in the answer to version.
func (r *replica) state() []string {
	s := r.copy.Status()
	heard := "never"
	if d := silence(s); d >= 0 {
		heard = d.String()
	}
	return []string{"replica-of=" + r.primary, fmt.Sprintf("whole=%t", s.Whole), fmt.Sprintf("behind=%d", s.Behind()), "heard=" + heard}
}

// ready says that a replica without a copy can answer nothing. One that is
// behind, or whose primary is away, goes on answering.
func (r *replica) ready(ctx context.Context) error {
	if s := r.copy.Status(); !s.Whole {
		return fmt.Errorf("no copy of the users of %s yet: %d of about %d", r.primary, s.Copying, s.Expected)
	}
	return r.users.Ready(ctx)
}

func (r *replica) metrics() []prometheus.Collector {
	gauge := func(name, help string, value func(nwauth.ReplicaStatus) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(r.copy.Status()) })
	}
	return []prometheus.Collector{
		gauge("switchyard_replica_behind_changes", "Changes of the primary that are missing here, as far as it has told.",
			func(s nwauth.ReplicaStatus) float64 { return float64(s.Behind()) }),
		gauge("switchyard_replica_silence_seconds", "How long nothing was heard of the primary; -1: never yet.",
			func(s nwauth.ReplicaStatus) float64 {
				if d := silence(s); d >= 0 {
					return d.Seconds()
				}
				return -1
			}),
	}
}

// pages are on the admin listener.
func (r *replica) pages() map[string]http.Handler {
	return map[string]http.Handler{"GET /replica": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s := r.copy.Status()
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{
			"primary": r.primary, "whole": s.Whole, "behind": s.Behind(), "mark": s.Mark.String(), "newest": s.Newest.String(),
			"silence_seconds": silence(s).Seconds(), "copying": s.Copying, "expected": s.Expected,
		})
	})}
}
