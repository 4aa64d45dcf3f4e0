package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"switchyard/internal/harness"

	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"golang.org/x/sync/errgroup"
)

const (
	benchRepetitions = 5
	benchTime        = 1200 * time.Millisecond // of one measurement
	benchMessage     = 4 << 10
)

// worker is one client of a measurement.
type worker interface {
	do() error // one operation
	close()
}

// operation is measured through a proxy and directly at the backend.
type operation struct {
	name            string
	clients         int
	through, direct func() (worker, error)
}

// measured is what one measurement found, per operation.
type measured struct {
	rate           float64 // per second
	proxy, backend time.Duration
}

// BenchmarkCluster measures logins and deliveries and prints one table. The
// clients run on the same machine, so the figures are for comparing with each
// other: through a proxy and directly, before and behind a change.
func BenchmarkCluster(b *testing.B) {
	c := start(b, harness.Spec{})
	var users []harness.Account
	for range 8 {
		users = append(users, c.account(b, "bench", "b1"))
	}
	g := &generator{c: c, users: users}
	for _, u := range users { // the proxy remembers their passwords from here on
		eventually(b, "the first login of "+u.Name, func() error { return g.as(u, "imaps") })
	}
	operations := []operation{
		{"IMAP login, TLS", 4, g.login("imaps"), g.loginDirectly},
		{"IMAP login, clear to the proxy", 4, g.login("imap"), g.loginDirectly},
	}
	for _, n := range []int{1, 8, 32} {
		operations = append(operations, operation{fmt.Sprintf("message of %d KB", benchMessage>>10), n, g.smtp, g.lmtp})
	}
	for b.Loop() {
		results := make([][2][]measured, len(operations))
		for range benchRepetitions {
			for i, o := range operations {
				for way, open := range []func() (worker, error){o.through, o.direct} {
					results[i][way] = append(results[i][way], c.measure(b, o.clients, open))
				}
			}
		}
		printTable(operations, results)
	}
	b.ReportMetric(0, "ns/op") // the table says what there is to say
}

// measure lets clients work for a while.
func (c *cluster) measure(b *testing.B, clients int, open func() (worker, error)) measured {
	b.Helper()
	workers := make([]worker, clients)
	for i := range workers {
		w, err := open()
		if err != nil {
			b.Fatal(err)
		}
		defer w.close()
		workers[i] = w
	}
	proxy, backend := c.Proxies[0].PID(), c.Backend("b1").PID()
	proxyBefore, backendBefore := cpu(b, proxy), cpu(b, backend)
	began := time.Now()
	var done atomic.Int64
	var all errgroup.Group
	for _, w := range workers {
		all.Go(func() error {
			for time.Since(began) < benchTime {
				if err := w.do(); err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		b.Fatal(err)
	}
	took, n := time.Since(began), done.Load()
	return measured{
		rate:    float64(n) / took.Seconds(),
		proxy:   (cpu(b, proxy) - proxyBefore) / time.Duration(n),
		backend: (cpu(b, backend) - backendBefore) / time.Duration(n),
	}
}

func printTable(operations []operation, results [][2][]measured) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight|tabwriter.Debug)
	fmt.Fprintf(w, "\noperation\tclients\tthrough a proxy\tdirectly\tproxy CPU\tbackend CPU\tdirectly\t\n")
	fmt.Fprintf(w, "\t\tper second\tper second\tµs each\tµs each\tµs each\t\n")
	for i, o := range operations {
		through, direct := results[i][0], results[i][1]
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%.0f\t%d\t%d\t%d\t\n", o.name, o.clients,
			median(through, func(m measured) float64 { return m.rate }),
			median(direct, func(m measured) float64 { return m.rate }),
			int64(median(through, func(m measured) float64 { return float64(m.proxy.Microseconds()) })),
			int64(median(through, func(m measured) float64 { return float64(m.backend.Microseconds()) })),
			int64(median(direct, func(m measured) float64 { return float64(m.backend.Microseconds()) })))
	}
	w.Flush()
	fmt.Printf(`
Medians of %d interleaved repetitions of %v; the clients share the machine.
A login is a new connection, LOGIN and LOGOUT, of a user whose password the
proxy has in its cache; directly means as a proxy logs in: TLS, the cluster's
secret, on behalf of the user. Messages go in by SMTP in clear through a proxy,
and directly by LMTP with TLS, each client on one connection; each is on disk
before it is answered.
`, benchRepetitions, benchTime)
}

func median(all []measured, of func(measured) float64) float64 {
	values := make([]float64, 0, len(all))
	for _, m := range all {
		values = append(values, of(m))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// generator makes workers.
type generator struct {
	c     *cluster
	users []harness.Account
	next  atomic.Int64
}

func (g *generator) user() harness.Account { return g.users[int(g.next.Add(1))%len(g.users)] }

// session is a worker that opens an IMAP session for each operation.
type session func() error

func (s session) do() error { return s() }
func (session) close()      {}

// login makes workers that log in through the proxy.
func (g *generator) login(listener string) func() (worker, error) {
	return func() (worker, error) {
		user := g.user()
		return session(func() error { return g.as(user, listener) }), nil
	}
}

// as is one session of a user through the proxy.
func (g *generator) as(user harness.Account, listener string) error {
	return g.imap(g.c.Proxies[0].Addr[listener], listener == "imaps", func(i *imapclient.Client) error {
		return i.Login(user.Name, user.Password).Wait()
	})
}

// loginDirectly logs in at the backend as the proxy does.
func (g *generator) loginDirectly() (worker, error) {
	user := g.user()
	return session(func() error {
		return g.imap(g.c.Backend("b1").Addr["imap"], true, func(i *imapclient.Client) error {
			return i.Authenticate(sasl.NewPlainClient(user.Name, "proxy", g.c.proxySecret))
		})
	}), nil
}

// imap is one session.
func (g *generator) imap(address string, secure bool, login func(*imapclient.Client) error) error {
	conn, err := tryDial("", address)
	if err != nil {
		return err
	}
	if secure {
		conn = tls.Client(conn, g.c.tls)
	}
	client := imapclient.New(conn, nil)
	defer client.Close()
	if err := client.WaitGreeting(); err != nil {
		return err
	}
	if err := login(client); err != nil {
		return err
	}
	return client.Logout().Wait()
}

// sender is a worker that sends a message with each operation.
type sender struct {
	client *smtp.Client
	g      *generator
	lmtp   bool
}

// smtp makes senders through the proxy.
func (g *generator) smtp() (worker, error) {
	conn, err := tryDial("", g.c.Proxies[0].Addr["smtp"])
	if err != nil {
		return nil, err
	}
	return &sender{smtp.NewClient(conn), g, false}, nil
}

// lmtp makes senders to the backend.
func (g *generator) lmtp() (worker, error) {
	conn, err := tryDial("", g.c.Backend("b1").Addr["lmtp"])
	if err != nil {
		return nil, err
	}
	client := smtp.NewClientLMTP(tls.Client(conn, g.c.tls))
	if err := client.Auth(sasl.NewPlainClient("", "proxy", g.c.proxySecret)); err != nil {
		client.Close()
		return nil, err
	}
	return &sender{client, g, true}, nil
}

func (s *sender) do() error {
	m, to := newMessage("Benchmark", benchMessage), s.g.user().Name
	if !s.lmtp {
		return s.client.SendMail("sender@example.org", []string{to}, strings.NewReader(m.text))
	}
	if err := s.client.Mail("sender@example.org", nil); err != nil {
		return err
	}
	if err := s.client.Rcpt(to, nil); err != nil {
		return err
	}
	w, err := s.client.Data()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, m.text); err != nil {
		return err
	}
	_, err = w.CloseWithLMTPResponse()
	return err
}

func (s *sender) close() {
	s.client.Quit()
	s.client.Close()
}
