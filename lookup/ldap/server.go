package ldap

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// shortLife is how long a connection lives that counts as having worked though
// it answered nothing. One that ends sooner is tried again after a pause only.
const shortLife = time.Second

var (
	errClosed     = errors.New("the directory is closed")
	errNotStarted = errors.New("not connected")
)

// server is one LDAP server: where it is, its shared search connections and
// its bind connections.
type server struct {
	dir         *Directory
	opts        *Options
	url         string // as configured, for messages
	network     string
	address     string
	host        string // for its certificate
	implicitTLS bool
	startTLS    bool

	mu      sync.Mutex
	slots   []slot
	changed chan struct{} // closed and replaced when a slot changes

	binders *binders
}

// slot is the place of one search connection.
type slot struct {
	conn *searchConn // nil while there is none
	err  error       // why the last try failed; nil while the first one goes on
}

func newServer(raw string, d *Directory) (*server, error) {
	s := &server{dir: d, opts: &d.opts, url: raw, changed: make(chan struct{}), slots: make([]slot, d.opts.SearchConns)}
	s.binders = &binders{places: make(chan struct{}, d.opts.BindConns)}
	if path, ok := strings.CutPrefix(raw, "ldapi://"); ok {
		// draft-chu-ldap-ldapi: the socket's path in the place of the host,
		// percent-encoded.
		path, err := url.PathUnescape(strings.TrimSuffix(path, "/"))
		if err != nil {
			return nil, fmt.Errorf("LDAP server %q: %w", raw, err)
		}
		if !strings.HasPrefix(path, "/") {
			return nil, fmt.Errorf("LDAP server %q: no path of a socket in it", raw)
		}
		s.network, s.address, s.host = "unix", path, "localhost"
		return s, nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("LDAP server: %w", err)
	}
	port := ""
	switch u.Scheme {
	case "ldap":
		port, s.startTLS = "389", d.opts.StartTLS
	case "ldaps":
		port, s.implicitTLS = "636", true
	default:
		return nil, fmt.Errorf("LDAP server %q: the scheme is none of ldap, ldaps, ldapi", raw)
	}
	if u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("LDAP server %q: want a host and perhaps a port behind the scheme, and nothing else", raw)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	s.network, s.host, s.address = "tcp", u.Hostname(), net.JoinHostPort(u.Hostname(), port)
	return s, nil
}

// inClear reports whether what is said to the server can be read on the way.
func (s *server) inClear() bool {
	ip := net.ParseIP(s.host)
	local := s.network == "unix" || s.host == "localhost" || ip != nil && ip.IsLoopback()
	return !local && !s.implicitTLS && !s.startTLS
}

// maintain keeps the search connection of a slot, until ctx ends.
func (s *server) maintain(ctx context.Context, i int) {
	pause := s.opts.BackOff / 40
	for ctx.Err() == nil {
		conn, err := s.openSearch(ctx)
		if err == nil {
			s.setSlot(i, slot{conn: conn})
			opened := time.Now()
			select {
			case <-conn.line.over:
			case <-ctx.Done():
			}
			conn.close()
			if conn.served.Load() || time.Since(opened) > shortLife {
				s.setSlot(i, slot{})
				pause = s.opts.BackOff / 40
				continue
			}
			err = errors.New("the server ended the connection")
		}
		if ctx.Err() != nil {
			break
		}
		s.setSlot(i, slot{err: err})
		sleep(ctx, pause/2+rand.N(pause/2+1))
		pause = min(2*pause, s.opts.BackOff)
	}
	s.setSlot(i, slot{err: errClosed})
}

// openSearch connects, binds as the service and has the server prove that it
// can see.
func (s *server) openSearch(ctx context.Context) (*searchConn, error) {
	c, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.line.Close() })
	defer stop()
	if err := s.bindService(c); err != nil {
		c.close()
		return nil, err
	}
	if err := s.prove(c); err != nil {
		c.close()
		return nil, err
	}
	return &searchConn{connection: c, server: s, calls: make(chan *call)}, nil
}

// bindService makes a connection the service's.
func (s *server) bindService(c *connection) error {
	request := c.simpleBind(s.opts.BindDN, s.opts.Password)
	if s.opts.External {
		request = c.ExternalBind
	}
	if err := c.bind(request, s.opts.BindTimeout); err != nil {
		return fmt.Errorf("bind as the service: %w", err)
	}
	return nil
}

// setSlot changes a slot, tells those who wait for it, and logs when the
// server was lost or is back.
func (s *server) setSlot(i int, next slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wasDown, _ := s.down()
	s.slots[i] = next
	close(s.changed)
	s.changed = make(chan struct{})
	switch isDown, cause := s.down(); {
	case isDown && !wasDown && !errors.Is(cause, errClosed):
		s.opts.Logger.Warn("directory server lost", zap.String("node", s.url), zap.NamedError("reason", cause))
	case next.conn != nil && wasDown:
		s.opts.Logger.Info("directory server back", zap.String("node", s.url))
	}
}

// down reports whether there is no connection and none to wait for: each slot
// failed when it was last tried. The caller holds mu.
func (s *server) down() (bool, error) {
	var cause error = errNotStarted
	for _, slot := range s.slots {
		if slot.err == nil {
			return false, nil
		}
		cause = slot.err
	}
	return true, cause
}

// connected returns the search connection with the least to do. It waits while
// one is being opened and fails at once while the server is down.
func (s *server) connected(ctx context.Context) (*searchConn, error) {
	for {
		s.mu.Lock()
		var best *searchConn
		for _, slot := range s.slots {
			if slot.conn != nil && slot.conn.usable() && (best == nil || slot.conn.load() < best.load()) {
				best = slot.conn
			}
		}
		down, cause := s.down()
		changed := s.changed
		s.mu.Unlock()
		switch {
		case best != nil:
			return best, nil
		case down:
			return nil, cause
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a connection: %w", ctx.Err())
		}
	}
}

func (s *server) status() ServerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := ServerStatus{URL: s.url}
	for _, slot := range s.slots {
		if slot.conn != nil {
			status.Connected++
		}
		if slot.err != nil {
			status.Err = slot.err
		}
	}
	return status
}

// close ends the lines that are open, so that all that waits on them ends.
func (s *server) close() {
	s.mu.Lock()
	for _, slot := range s.slots {
		if slot.conn != nil {
			slot.conn.line.Close()
		}
	}
	s.mu.Unlock()
	s.binders.close()
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
