package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"switchyard/internal/harness"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-smtp"
)

// sample is one message to send.
type sample struct {
	name  string
	bytes []byte // with CRLF line ends
	to    []string
}

// loadMessages reads the .eml files of a directory, in the order of their
// names.
func loadMessages(dir string) ([]*sample, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.eml"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no .eml file in %s; run the demo in the project's directory, or say --messages", dir)
	}
	var out []*sample
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		b = bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
		out = append(out, &sample{name: filepath.Base(f), bytes: b})
	}
	return out, nil
}

// roundTrip sends the messages in through the first proxy and reads them back
// through the second.
type roundTrip struct {
	cluster  *harness.Cluster
	messages []*sample
	progress func(string)
	hops     []hop
}

// hop is one line of the table.
type hop struct {
	account, protocol string
	proxy             *harness.Proxy
	took              time.Duration
	note              string
}

func (r *roundTrip) run(ctx context.Context) error {
	r.address()
	in, out := r.cluster.Proxies[0], r.cluster.Proxies[1]
	for i, m := range r.messages {
		r.progress(fmt.Sprintf("sending %d of %d through %s: %s", i+1, len(r.messages), in.Name, m.name))
		if err := r.send(ctx, in, m); err != nil {
			return fmt.Errorf("send %s by SMTP through %s: %w", m.name, in.Name, err)
		}
	}
	readers := []struct {
		protocol string
		read     func(context.Context, *harness.Proxy, harness.Account) ([][]byte, error)
	}{{"imap", r.readIMAP}, {"pop3", r.readPOP3}}
	for _, reader := range readers {
		for _, a := range r.cluster.Spec.Accounts {
			r.progress(fmt.Sprintf("reading %s by %s through %s", a.Name, strings.ToUpper(reader.protocol), out.Name))
			began := time.Now()
			got, err := reader.read(ctx, out, a)
			if err == nil {
				err = r.compare(a.Name, got)
			}
			if err != nil {
				return fmt.Errorf("read the mail of %s by %s through %s: %w", a.Name, strings.ToUpper(reader.protocol), out.Name, err)
			}
			r.hops = append(r.hops, hop{a.Name, reader.protocol, out, time.Since(began), fmt.Sprintf("%d messages", len(got))})
		}
	}
	return nil
}

// address gives each message its recipients: the accounts in turn, and the
// first message everybody, so that it goes to both backends.
func (r *roundTrip) address() {
	accounts := r.cluster.Spec.Accounts
	for i, m := range r.messages {
		m.to = nil
		if i == 0 {
			for _, a := range accounts {
				m.to = append(m.to, a.Name)
			}
			continue
		}
		m.to = []string{accounts[i%len(accounts)].Name}
	}
}

func (r *roundTrip) tls() (*tls.Config, error) {
	pem, err := os.ReadFile(r.cluster.CA.File)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("the CA's certificate cannot be read")
	}
	return &tls.Config{RootCAs: pool, ServerName: r.cluster.Spec.Host}, nil
}

// dialTimeout and sessionTimeout bound each session of the round trip.
const (
	dialTimeout    = 5 * time.Second
	sessionTimeout = 30 * time.Second
)

// dial connects with a deadline for the whole session.
func dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(sessionTimeout))
}

func (r *roundTrip) send(ctx context.Context, p *harness.Proxy, m *sample) error {
	config, err := r.tls()
	if err != nil {
		return err
	}
	began := time.Now()
	conn, err := dial(ctx, p.Addr["smtp"])
	if err != nil {
		return err
	}
	client, err := smtp.NewClientStartTLS(conn, config)
	if err != nil {
		conn.Close()
		return err
	}
	defer client.Close()
	if err := client.SendMail("sender@example.org", m.to, bytes.NewReader(m.bytes)); err != nil {
		return err
	}
	for _, to := range m.to {
		r.hops = append(r.hops, hop{to, "smtp", p, time.Since(began), m.name})
	}
	return client.Quit()
}

func (r *roundTrip) readIMAP(ctx context.Context, p *harness.Proxy, a harness.Account) ([][]byte, error) {
	config, err := r.tls()
	if err != nil {
		return nil, err
	}
	conn, err := dial(ctx, p.Addr["imap"])
	if err != nil {
		return nil, err
	}
	client, err := imapclient.NewStartTLS(conn, &imapclient.Options{TLSConfig: config})
	if err != nil {
		conn.Close()
		return nil, err
	}
	defer client.Close()
	if err := client.Login(a.Name, a.Password).Wait(); err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	box, err := client.Select("INBOX", nil).Wait()
	if err != nil {
		return nil, fmt.Errorf("select: %w", err)
	}
	if box.NumMessages == 0 {
		return nil, nil
	}
	var all imap.SeqSet
	all.AddRange(1, box.NumMessages)
	section := &imap.FetchItemBodySection{Peek: true}
	fetched, err := client.Fetch(all, &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{section}}).Collect()
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	var out [][]byte
	for _, f := range fetched {
		out = append(out, f.FindBodySection(section))
	}
	return out, client.Logout().Wait()
}

func (r *roundTrip) readPOP3(ctx context.Context, p *harness.Proxy, a harness.Account) ([][]byte, error) {
	config, err := r.tls()
	if err != nil {
		return nil, err
	}
	conn, err := dial(ctx, p.Addr["pop3s"])
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	tc := tls.Client(conn, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return readMaildrop(tc, a.Name, a.Password)
}

// compare checks that exactly the messages sent to an account came back, each
// byte for byte behind the trace fields that the servers put in front.
func (r *roundTrip) compare(account string, got [][]byte) error {
	var want []*sample
	for _, m := range r.messages {
		if slices.Contains(m.to, account) {
			want = append(want, m)
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d messages are there, %d were sent", len(got), len(want))
	}
	for _, m := range want {
		if !slices.ContainsFunc(got, func(b []byte) bool { return bytes.HasSuffix(b, m.bytes) }) {
			return fmt.Errorf("%s is missing or changed", m.name)
		}
	}
	return nil
}

// logPatience is how long a line may take from the end of a session into the
// log.
const logPatience = 5 * time.Second

// table prints the hops with what the daemons' logs say about them.
func (r *roundTrip) table(ctx context.Context, w io.Writer) error {
	homes := make(map[string]string)
	for _, a := range r.cluster.Spec.Accounts {
		homes[a.Name] = a.Home
		if a.Home == "" {
			homes[a.Name] = r.cluster.Spec.DefaultBackend + " (default)"
		}
	}
	lines, err := r.logged(ctx)
	if err != nil {
		return err
	}
	t := newTable("account", "home", "node", "protocol", "through", "session", "time", "what")
	for i, h := range r.hops {
		t.row(h.account, homes[h.account], lines[i].Node, h.protocol, h.proxy.Name, lines[i].Session,
			fmt.Sprintf("%.0f ms", float64(h.took.Microseconds())/1000), h.note)
	}
	t.print(w)
	return nil
}

// logged finds the log lines of all hops; the last may take a moment to be
// written.
func (r *roundTrip) logged(ctx context.Context) ([]logLine, error) {
	ctx, cancel := context.WithTimeout(ctx, logPatience)
	defer cancel()
	for {
		var s sessions
		for _, path := range r.logs() {
			lines, err := readLog(path)
			if err != nil {
				return nil, err
			}
			s.lines = append(s.lines, lines...)
		}
		out := make([]logLine, len(r.hops))
		missing := ""
		for i, h := range r.hops {
			if out[i] = s.take(h); out[i].Session == "" {
				missing = fmt.Sprintf("%s by %s through %s", h.account, h.protocol, h.proxy.Name)
			}
		}
		if missing == "" {
			return out, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("find the sessions in the logs: no line about %s", missing)
		}
	}
}

// logs are the paths of the logs that have the hops.
func (r *roundTrip) logs() []string {
	var out []string
	for _, p := range r.cluster.Proxies {
		out = append(out, p.Log)
	}
	for _, b := range r.cluster.Backends {
		out = append(out, b.Log)
	}
	return out
}
