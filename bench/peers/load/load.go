// Package load is the clients of the comparison.
package load

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	// sessionPatience bounds one client's session, except a bulk one.
	sessionPatience = 20 * time.Second

	// bulkPatience bounds one client's bulk.
	bulkPatience = 5 * time.Minute

	// sources is how many loopback addresses the clients come from, so that
	// neither ports run out nor one address looks like an attack.
	sources = 200

	// Users is how many accounts there are.
	Users = 200

	Password = "correct-horse"
	Domain   = "bench.test"
)

// Order is what the load is asked to do.
type Order struct {
	Do          string // run, bulk, hold or drop
	Service     string
	TLS         bool
	Address     string
	Duration    time.Duration // of run; zero: as many sessions as there are Users
	Concurrency int
	Megabytes   int // of bulk, over all streams
	Sessions    int // of hold: how many are held in all afterwards
}

// Result is the answer.
type Result struct {
	Sessions int   // that were completed, or are held
	Bytes    int64 // of bulk
	Error    string
}

// load is the clients.
type load struct {
	held []net.Conn
	next int // numbers the sessions
	mu   sync.Mutex
}

// Serve carries out orders until there are no more.
func Serve(in io.Reader, out io.Writer) error {
	var l load
	orders, results := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var o Order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			l.drop()
			return nil
		} else if err != nil {
			return err
		}
		if err := results.Encode(l.do(o)); err != nil {
			return err
		}
	}
}

func (l *load) do(o Order) (r Result) {
	var err error
	switch o.Do {
	case "run":
		r.Sessions, err = l.run(o)
	case "bulk":
		r.Bytes, err = l.bulk(o)
	case "hold":
		err = l.hold(o)
		r.Sessions = len(l.held)
	case "drop":
		l.drop()
	default:
		err = fmt.Errorf("unknown order %q", o.Do)
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

// number gives each session its own.
func (l *load) number() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	return l.next
}

// each runs clients side by side, and returns their first error.
func each(n int, do func() error) error {
	var group sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		group.Go(func() { errs[i] = do() })
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// run has complete sessions, one after the other in each client, until the time
// is over. A session that fails ends the run.
func (l *load) run(o Order) (int, error) {
	end := time.Now().Add(o.Duration)
	var mu sync.Mutex
	done, begun := 0, 0
	more := func() bool {
		mu.Lock()
		defer mu.Unlock()
		begun++
		if o.Duration == 0 {
			return begun <= Users
		}
		return time.Now().Before(end)
	}
	err := each(o.Concurrency, func() error {
		for more() {
			c, err := l.dial(o)
			if err == nil {
				err = c.session(o.Service)
				c.Close()
			}
			if err != nil {
				return err
			}
			mu.Lock()
			done++
			mu.Unlock()
		}
		return nil
	})
	return done, err
}

// bulk fetches messages with a few clients at once.
func (l *load) bulk(o Order) (int64, error) {
	const streams = 4
	var mu sync.Mutex
	var total int64
	err := each(streams, func() error {
		c, err := l.dial(o)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(bulkPatience))
		n, err := c.fetch((o.Megabytes + streams - 1) / streams)
		mu.Lock()
		total += n
		mu.Unlock()
		return err
	})
	return total, err
}

// hold opens sessions until there are as many as are wanted, logged in and
// idle after one command. They are left to themselves.
func (l *load) hold(o Order) error {
	var mu sync.Mutex
	missing := o.Sessions - len(l.held)
	return each(o.Concurrency, func() error {
		for {
			mu.Lock()
			missing--
			enough := missing < 0
			mu.Unlock()
			if enough {
				return nil
			}
			c, err := l.dial(o)
			if err != nil {
				return err
			}
			if err := c.login(o.Service); err != nil {
				c.Close()
				return err
			}
			c.SetDeadline(time.Time{})
			mu.Lock()
			l.held = append(l.held, c.Conn)
			mu.Unlock()
		}
	})
}

// drop closes the idle sessions.
func (l *load) drop() {
	for _, c := range l.held {
		c.Close()
	}
	l.held = nil
}

// dial connects a client, with a full TLS handshake when it is asked for. X25519
// is what it sends a key for and what all proxies take but Perdition, which knows
// P-256 only and pays for it with one more round trip. No tickets are asked for,
// and none are used.
func (l *load) dial(o Order) (*client, error) {
	n := l.number()
	ctx, cancel := context.WithTimeout(context.Background(), sessionPatience)
	defer cancel()
	d := net.Dialer{
		LocalAddr:       &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+n%sources))},
		KeepAliveConfig: net.KeepAliveConfig{Enable: false},
		KeepAlive:       -1,
		Control:         lateBind,
	}
	conn, err := d.DialContext(ctx, "tcp", o.Address)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(sessionPatience))
	if o.TLS {
		secured := tls.Client(conn, &tls.Config{
			InsecureSkipVerify: true, // the clients' work is not what is measured
			MinVersion:         tls.VersionTLS13,
			CurvePreferences:   []tls.CurveID{tls.X25519, tls.CurveP256},
		})
		if err := secured.Handshake(); err != nil {
			conn.Close()
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
		conn = secured
	}
	return newClient(conn, UserName(n%Users)), nil
}

func UserName(i int) string { return fmt.Sprintf("u%03d@%s", i, Domain) }

// lateBind lets the kernel choose the port when the address of both ends is
// known: there are as many ports as for each pair then.
func lateBind(_, _ string, c syscall.RawConn) error {
	const bindAddressNoPort = 24 // IP_BIND_ADDRESS_NO_PORT
	var err error
	if e := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, bindAddressNoPort, 1)
	}); e != nil {
		return e
	}
	return err
}
