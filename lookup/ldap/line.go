package ldap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

const (
	// writeTimeout bounds each write: a server that does not read makes the
	// connection fail. A deadline that is further away than this is left as it
	// is, up to twice as far, since to set one for each write costs more than
	// the rest of it.
	writeTimeout = 3 * time.Second

	// maxStartTLSAnswer bounds what is read in clear, in bytes.
	maxStartTLSAnswer = 4 << 10

	// startTLSOID names the extended operation of RFC 4511 §4.14.
	startTLSOID = "1.3.6.1.4.1.1466.20037"
)

// line is the network connection below the library's: it puts a deadline on
// writes, knows when the server was last heard, and tells when it is over.
type line struct {
	net.Conn
	heard atomic.Int64 // when bytes were last read, in Unix nanoseconds
	until time.Time    // the deadline of writes; of the library's one writer
	over  chan struct{}
	once  sync.Once
}

func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if n > 0 {
		l.heard.Store(time.Now().UnixNano())
	}
	if err != nil {
		l.Close()
	}
	return n, err
}

func (l *line) Write(p []byte) (int, error) {
	if now := time.Now(); l.until.Sub(now) < writeTimeout {
		l.until = now.Add(2 * writeTimeout)
		if err := l.Conn.SetWriteDeadline(l.until); err != nil {
			return 0, err
		}
	}
	n, err := l.Conn.Write(p)
	if err != nil {
		// Part of a message may be out: nothing that follows would be
		// understood.
		l.Close()
	}
	return n, err
}

func (l *line) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		close(l.over)
		err = l.Conn.Close()
	})
	return err
}

// isOver reports whether the line was closed by either side.
func (l *line) isOver() bool {
	select {
	case <-l.over:
		return true
	default:
		return false
	}
}

// connection is the library's connection and the line below it.
type connection struct {
	*ldap.Conn
	line *line
}

// close ends the connection and waits for the library's writer.
func (c *connection) close() {
	c.line.Close() // first: it frees a writer that is stuck
	c.Conn.Close()
}

// dial connects to a server, up to and with TLS. Nobody is bound yet.
func (s *server) dial(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.DialTimeout)
	defer cancel()
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, s.network, s.address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	conn, err := s.secure(ctx, raw)
	if err != nil {
		raw.Close()
		return nil, err
	}
	l := &line{Conn: conn, over: make(chan struct{})}
	c := &connection{Conn: ldap.NewConn(l, conn != raw), line: l}
	c.Start()
	return c, nil
}

// secure makes a connection what the options demand. What the server says in
// clear is read no further than the answer to StartTLS.
func (s *server) secure(ctx context.Context, raw net.Conn) (net.Conn, error) {
	if !s.implicitTLS && !s.startTLS {
		return raw, nil
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := raw.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	// The end of ctx, at Close, ends a read.
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(0, 1)) })
	defer stop()
	if s.startTLS {
		if err := askStartTLS(raw); err != nil {
			return nil, fmt.Errorf("StartTLS: %w", err)
		}
	}
	config := s.opts.TLS.Clone()
	if config.ServerName == "" {
		config.ServerName = s.host
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	if !stop() {
		return nil, fmt.Errorf("TLS handshake: %w", ctx.Err())
	}
	return conn, raw.SetDeadline(time.Time{})
}

// askStartTLS says the one message that may be said in clear and reads its
// answer (RFC 4511 §4.14), byte by byte, so that nothing behind it is taken
// for part of the dialogue: it goes to the handshake, which fails.
func askStartTLS(rw io.ReadWriter) error {
	request := ber.NewSequence("LDAPMessage")
	request.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, 1, "messageID"))
	operation := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationExtendedRequest, nil, "extendedReq")
	operation.AppendChild(ber.NewString(ber.ClassContext, ber.TypePrimitive, 0, startTLSOID, "requestName"))
	request.AppendChild(operation)
	if _, err := rw.Write(request.Bytes()); err != nil {
		return err
	}
	answer, err := ber.ReadPacket(io.LimitReader(rw, maxStartTLSAnswer))
	if err != nil {
		return err
	}
	if len(answer.Children) < 2 || answer.Children[1].ClassType != ber.ClassApplication ||
		answer.Children[1].Tag != ldap.ApplicationExtendedResponse {
		return errors.New("the answer is not one to an extended operation")
	}
	return ldap.GetLDAPError(answer)
}
