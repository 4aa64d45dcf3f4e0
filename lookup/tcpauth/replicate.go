package tcpauth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/crc64"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"switchyard/lookup/internal/netwin"

	"switchyard/lookup/internal/authent"
)

// The lines of a replication stream, behind +DATA:
//
//	= <line>                         one of a full copy
//	. <mark> <sum>                   the full copy's end: when it is whole, and the sum of its lines
//	+ <mark> <kind> <line>           a change, and the mark behind it; the kind is a feed's
//	~ <mark>                         the newest mark
//
// It begins with +OK continue <mark>, or +OK copy <mark> <lines>.
const (
	streamContinue = "continue"
	streamCopy     = "copy"
	streamLine     = "="
	streamCopied   = "."
	streamMore     = "+"
	streamHead     = "~"
)

// copySum is the sum of the lines of a full copy.
func copySum(sum uint64, line string) uint64 {
	table := crc64.MakeTable(crc64.ECMA)
	return crc64.Update(crc64.Update(sum, table, []byte(line)), table, []byte{'\n'})
}

// replicate makes the rest of the connection a replica's.
func (s *session) replicate(ctx context.Context, r authent.Request) bool {
	allowed := s.server.source != nil
	if allowed {
		allowed = false
		for _, network := range s.server.opts.Replicas {
			allowed = allowed || network.Contains(s.client.Addr())
		}
	}
	if !allowed {
		s.server.opts.Logger.Warn("a client may not copy the database", zap.Stringer("client", s.client))
		s.scratch.reply(authent.Err.With("this address may not copy the database"))
		return true
	}
	var from *netwin.Mark
	if r.Mark != "" {
		mark, err := netwin.ParseMark(r.Mark)
		if err != nil {
			s.scratch.refuse(err)
			return true
		}
		from = &mark
	}
	return s.stream(ctx, func(ctx context.Context, _ <-chan time.Time) error {
		w := &follower{out: s.out}
		err := s.server.source.Stream(ctx, from, w)
		s.server.opts.Logger.Info("replica ended", zap.Stringer("client", s.client), zap.Int("copies", w.copies), zap.Uint64("changes", w.changes), zap.Error(err))
		return err
	})
}

// follower writes a stream to a replica. It says more often than the replica
// expects that it lives: the source calls Head every few seconds.
type follower struct {
	out     *outlet
	sum     uint64
	copies  int
	changes uint64
}

func (f *follower) write(parts ...string) error {
	f.out.add([]byte(strings.Join(parts, " ") + "\n"))
	if f.out.full() {
		return f.out.flush()
	}
	return nil
}

func (f *follower) Continue(at netwin.Mark) error {
	return f.write(string(authent.OK), streamContinue, at.String())
}

func (f *follower) Copy(at netwin.Mark, n int) error {
	f.copies++
	f.sum = 0
	return f.write(string(authent.OK), streamCopy, at.String(), strconv.Itoa(n))
}

func (f *follower) Line(line string) error {
	f.sum = copySum(f.sum, line)
	return f.write(string(authent.Data), streamLine, line)
}

func (f *follower) Copied(until netwin.Mark) error {
	return f.write(string(authent.Data), streamCopied, until.String(), fmt.Sprintf("%016x", f.sum))
}

func (f *follower) Change(line string, at netwin.Mark, sessions bool) error {
	f.changes++
	kind := feedChange
	if sessions {
		kind = feedSessions
	}
	return f.write(string(authent.Data), streamMore, at.String(), kind, line)
}

func (f *follower) Head(newest netwin.Mark) error {
	if err := f.write(string(authent.Data), streamHead, newest.String()); err != nil {
		return err
	}
	return f.out.flush()
}

// Replica is what follows a primary: it is given the stream, one call at a
// time.
type Replica interface {
	netwin.Follower

	// Begin forgets a stream that broke, and returns the mark to go on from;
	// nil when everything is needed.
	Begin() *netwin.Mark
}

// FollowOptions for Follow. The zero value works.
type FollowOptions struct {
	Secret string      // as in ClientOptions
	TLS    *tls.Config // as in ClientOptions
	Logger *zap.Logger // nil: none

	// MaxBackoff bounds how long Follow waits between two attempts. Zero
	// means 2 seconds.
	MaxBackoff time.Duration
}

// Follow lets a replica follow the server at primary (host:port) until ctx
// ends. It connects again when the stream breaks, with growing pauses.
func Follow(ctx context.Context, primary string, r Replica, o FollowOptions) error {
	if _, _, err := net.SplitHostPort(primary); err != nil {
		return fmt.Errorf("tcpauth: primary %q: %w", primary, err)
	}
	client, err := NewClient([]string{primary}, ClientOptions{Secret: o.Secret, TLS: o.TLS, MaxBackoff: o.MaxBackoff, Logger: o.Logger})
	if err != nil {
		return err
	}
	defer client.Close()
	u := client.servers[0]
	log := u.opts.Logger
	quiet := false
	for failures := 0; ctx.Err() == nil; failures++ {
		err := u.replicate(ctx, r, func() {
			log.Info("following the primary", zap.String("node", primary))
			failures, quiet = 0, false
		})
		if ctx.Err() != nil {
			break
		}
		if !quiet {
			log.Warn("the primary is away", zap.String("node", primary), zap.Error(err))
			quiet = true
		}
		pause(ctx, min(minBackoff<<min(failures, 16), u.opts.MaxBackoff))
	}
	return nil
}

// pause waits between half of d and d.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d/2 + rand.N(d/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// replicate is one connection's stream. live is called when it has begun.
func (u *upstream) replicate(ctx context.Context, r Replica, live func()) error {
	conn, err := u.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.close()
	release := conn.wire.Bind(ctx)
	defer release()
	conn.wire.SetDeadline(time.Time{})
	conn.wire.SetIdle(aliveLimit)
	request := authent.Request{Verb: authent.Replicate}
	if mark := r.Begin(); mark != nil {
		request.Mark = mark.String()
	}
	line, err := request.Line(true)
	if err != nil {
		return err
	}
	if err := conn.send(line); err != nil {
		return err
	}
	p := &playback{to: r}
	for first := true; ; first = false {
		reply, err := conn.read()
		if err == nil {
			err = p.play(reply, first)
		}
		if err != nil {
			return err
		}
		if first {
			live()
		}
	}
}

// playback gives the lines of a stream to a follower.
type playback struct {
	to  netwin.Follower
	sum uint64
}

func (p *playback) play(r authent.Reply, first bool) error {
	kind, rest, _ := strings.Cut(r.Text, " ")
	switch {
	case r.Kind == authent.Err:
		return fmt.Errorf("the primary refuses: %s", r.Reason())
	case first && r.Kind == authent.OK && kind == streamContinue:
		return p.mark(rest, p.to.Continue)
	case first && r.Kind == authent.OK && kind == streamCopy:
		word, count, _ := strings.Cut(rest, " ")
		n, err := strconv.ParseUint(count, 10, 31)
		if err != nil {
			return errStream
		}
		return p.mark(word, func(m netwin.Mark) error { return p.to.Copy(m, int(n)) })
	case first || r.Kind != authent.Data:
		return errStream
	}
	switch kind {
	case streamLine:
		p.sum = copySum(p.sum, rest)
		return p.to.Line(rest)
	case streamCopied:
		word, sum, _ := strings.Cut(rest, " ")
		if sum != fmt.Sprintf("%016x", p.sum) {
			return fmt.Errorf("%w: the copy's sum is another", errStream)
		}
		return p.mark(word, p.to.Copied)
	case streamMore:
		word, rest, _ := strings.Cut(rest, " ")
		kind, line, _ := strings.Cut(rest, " ")
		if kind != feedChange && kind != feedSessions {
			return errStream
		}
		return p.mark(word, func(m netwin.Mark) error { return p.to.Change(line, m, kind == feedSessions) })
	case streamHead:
		return p.mark(rest, p.to.Head)
	}
	return errStream
}

var errStream = errors.New("the primary's stream makes no sense")

func (p *playback) mark(word string, f func(netwin.Mark) error) error {
	m, err := netwin.ParseMark(word)
	if err != nil {
		return fmt.Errorf("%w: %v", errStream, err)
	}
	return f(m)
}
