// Package console is what an administrator sees of a running proxy, and does to
// it, over HTTP: the live sessions, kicking them, draining, the way of an
// account, the backends; and the metrics.
//
//	c := console.New(router, console.Options{})
//	defer c.Close()
//	for pattern, h := range c.Handlers() { mux.Handle(pattern, h) }
//
//	curl localhost:9000/sessions?user=anna@example.test
//	curl localhost:9000/route?user=anna@example.test&format=text
//	curl -H 'Content-Type: application/json' -d '{"user":"anna@example.test"}' localhost:9000/kick
//	curl -H 'Content-Type: application/json' -d '{"backend":"b1","node":"b1a"}' localhost:9000/drain
//
// There is no login: the listener has to be this machine's own. What a web page
// in a browser on this machine could do is refused: changes need a content type
// that no form can send, and a Host that is no address and not localhost is
// refused, so that a name which points here after all (DNS rebinding) opens
// nothing.
package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"switchyard/router"
	"switchyard/router/upstream"

	"go.uber.org/zap"
)

// maxBody bounds a request's body.
const maxBody = 64 << 10

// Elders are older processes of the same proxy, which handed their listeners over
// and keep their sessions until they end. Each asks all that are left, at the
// paths of a console of theirs that has no elders itself, and gives each answer
// to found; *daemon.Elders is one.
type Elders interface {
	Each(ctx context.Context, method, path string, body []byte, found func(pid, status int, body []byte) error) error
}

// Options for New. The zero value works.
type Options struct {
	// Elders are asked too: what is shown and done is all processes'. Nil means
	// that there are none.
	Elders Elders

	Logger *zap.Logger // nil: none
}

// Console is safe for concurrent use.
type Console struct {
	router *router.Router
	elders Elders
	log    *zap.Logger

	// What a request has begun goes on behind its answer: it is paced, and may
	// take minutes.
	ctx  context.Context
	stop context.CancelFunc
	mu   sync.Mutex // held to begin work, and to forbid it
	work sync.WaitGroup
}

// New makes a console. It must be closed.
func New(r *router.Router, o Options) *Console {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	ctx, stop := context.WithCancel(context.Background())
	return &Console{router: r, elders: o.Elders, log: o.Logger, ctx: ctx, stop: stop}
}

// Close ends the kicks and drains under way, and waits for them. What is
// drained stays drained.
func (c *Console) Close() error {
	c.mu.Lock()
	c.stop()
	c.mu.Unlock()
	c.work.Wait()
	return nil
}

// begin runs f behind the answer.
func (c *Console) begin(f func(context.Context)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() == nil {
		c.work.Go(func() { f(c.ctx) })
	}
}

// Handlers returns the handlers by their patterns, which are http.ServeMux's.
func (c *Console) Handlers() map[string]http.Handler {
	return map[string]http.Handler{
		"GET /sessions": c.asking(c.sessions),
		"GET /route":    c.asking(c.route),
		"GET /backends": c.asking(c.backends),
		"POST /kick":    c.changing("/kick", c.kick),
		"POST /drain":   c.changing("/drain", c.drain),
		"POST /undrain": c.changing("/undrain", c.undrain),
		"POST /forget":  c.changing("/forget", c.forget),
	}
}

// problem is a request that cannot be done.
type problem struct {
	code int
	text string
}

func (p *problem) Error() string { return p.text }

func bad(format string, args ...any) error {
	return &problem{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// asking answers a request that changes nothing.
func (c *Console) asking(answer func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out, err := any(nil), local(r)
		if err == nil {
			out, err = answer(r)
		}
		c.reply(w, http.StatusOK, out, err)
	})
}

// order is the body of a request that changes something.
type order struct {
	Session  string `json:"session,omitempty"`
	User     string `json:"user,omitempty"`
	Client   string `json:"client,omitempty"` // an address, or a network
	Backend  string `json:"backend,omitempty"`
	Node     string `json:"node,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	Reason   string `json:"reason,omitempty"`
	Proxy    bool   `json:"proxy,omitempty"` // the proxy itself
	All      bool   `json:"all,omitempty"`   // forget: all accounts
}

// changing answers a request that changes something, which the elders are told
// too.
func (c *Console) changing(path string, answer func(context.Context, order) (begun, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var out begun
		o, err := readOrder(w, r)
		if err == nil {
			out, err = answer(r.Context(), o)
		}
		if err == nil {
			c.passOn(r.Context(), path, o, &out)
		}
		c.reply(w, http.StatusAccepted, out, err)
	})
}

func readOrder(w http.ResponseWriter, r *http.Request) (o order, err error) {
	if err := local(r); err != nil {
		return o, err
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return o, &problem{http.StatusUnsupportedMediaType, "the content type must be application/json"}
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil {
		return o, bad("the body must be a JSON object: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return o, bad("something follows the JSON object")
	}
	return o, nil
}

// local refuses requests that were made to a name which is not this machine's.
func local(r *http.Request) error {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if len(host) > 2 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "localhost" {
		return &problem{http.StatusForbidden, "the Host must be an address or localhost"}
	}
	return nil
}

// text is an answer that is not JSON.
type text string

// reply answers in JSON, or in text when out is one.
func (c *Console) reply(w http.ResponseWriter, code int, out any, err error) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	var p *problem
	switch {
	case err == nil:
	case errors.As(err, &p):
		code, out = p.code, map[string]string{"error": p.text}
	case errors.Is(err, upstream.ErrUnknown):
		code, out = http.StatusNotFound, map[string]string{"error": err.Error()}
	default:
		code, out = http.StatusInternalServerError, map[string]string{"error": err.Error()}
	}
	if t, ok := out.(text); ok {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(code)
		io.WriteString(w, string(t))
		return
	}
	h.Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(out); err != nil {
		c.log.Debug("the administrator left before the answer", zap.Error(err))
	}
}
