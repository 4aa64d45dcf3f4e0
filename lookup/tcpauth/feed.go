package tcpauth

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"switchyard/internal/server"
	"switchyard/lookup"
	"switchyard/lookup/internal/authent"
)

// The kinds of lines of a feed, behind its running number. alive repeats the
// number of the line before.
const (
	feedChange   = "change"   // and a name
	feedSessions = "sessions" // and a name: it bears on who may be logged in
	feedAll      = "all"      // anything may have changed
	feedAlive    = "alive"
)

const (
	// aliveEvery is how often a stream shows that it lives.
	aliveEvery = 5 * time.Second

	// aliveLimit is how long the other side believes in a silent one.
	aliveLimit = 4 * aliveEvery
)

// appendFeed writes a line of a feed without its line end.
func appendFeed(b []byte, number uint64, c lookup.Change) []byte {
	kind := feedChange
	switch {
	case c.Name == "":
		kind = feedAll
	case c.Sessions:
		kind = feedSessions
	}
	b = append(append(b, authent.Data...), ' ')
	b = append(append(strconv.AppendUint(b, number, 10), ' '), kind...)
	if c.Name != "" {
		b = append(append(b, ' '), c.Name...)
	}
	return b
}

// parseFeed reads the text of a feed's line. last is the number of the line
// before; numbers have no gap. found is false for a line that only shows that
// the feed lives.
func parseFeed(text string, last uint64) (c lookup.Change, found bool, err error) {
	word := strings.Split(text, " ")
	if len(word) < 2 {
		return c, false, fmt.Errorf("%w: no line of a feed", authent.ErrGarbage)
	}
	number, err := strconv.ParseUint(word[0], 10, 64)
	switch {
	case err != nil || number != last && word[1] == feedAlive || number != last+1 && word[1] != feedAlive:
		return c, false, fmt.Errorf("%w: lines of the feed are missing", authent.ErrGarbage)
	case len(word) == 2 && word[1] == feedAlive:
		return c, false, nil
	case len(word) == 2 && word[1] == feedAll:
		return c, true, nil
	case len(word) == 3 && (word[1] == feedChange || word[1] == feedSessions):
		name, err := lookup.CleanName(word[2], "")
		if err != nil || name != word[2] {
			return c, false, fmt.Errorf("%w: no name in the feed", authent.ErrGarbage)
		}
		return lookup.Change{Name: name, Sessions: word[1] == feedSessions}, true, nil
	}
	return c, false, fmt.Errorf("%w: no line of a feed", authent.ErrGarbage)
}

// feed makes the rest of the connection a stream of changes. Whatever the
// client says ends it.
func (s *session) feed(ctx context.Context) bool {
	if s.server.feeder == nil {
		s.scratch.reply(authent.Err.With("this server has no feed of changes"))
		return true
	}
	var number uint64
	return s.stream(ctx, func(ctx context.Context, alive <-chan time.Time) error {
		lines := make(chan lookup.Change)
		live := make(chan struct{})
		done := make(chan error, 1)
		feedCtx, cancel := context.WithCancel(ctx)
		go func() {
			done <- s.server.feeder.Feed(feedCtx, func() { close(live) }, func(c lookup.Change) {
				select {
				case lines <- c:
				case <-feedCtx.Done():
				}
			})
		}()
		defer func() { cancel(); <-done }()
		say := func(line []byte) error {
			s.out.add(append(line, '\n'))
			return s.out.flush()
		}
		var err error
		for err == nil {
			select {
			case <-live:
				live = nil
				err = say([]byte("+OK feed"))
			case c := <-lines:
				number++
				err = say(appendFeed(nil, number, c))
			case <-alive:
				if live == nil {
					err = say(fmt.Appendf(nil, "%s %d %s", authent.Data, number, feedAlive))
				}
			case err = <-done:
				done <- err
				return err
			case <-ctx.Done():
				return nil
			}
		}
		return err
	})
}

// stream runs f, which writes to the connection until it returns or the client
// says or closes anything. The error is told to the client.
func (s *session) stream(ctx context.Context, f func(ctx context.Context, alive <-chan time.Time) error) bool {
	// From here on the answers are the stream's.
	s.out.flush()
	s.wg.Wait()
	inner, cancel := context.WithCancelCause(ctx)
	// The client says nothing any more: what is written, every few seconds,
	// finds out whether it lives, within outlet.limit.
	s.conn.SetIdle(0)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		s.conn.Peek(1)
		cancel(errors.New("the client spoke or closed"))
	}()
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	err := f(inner, tick.C)
	if inner.Err() == nil || context.Cause(inner) == server.ErrShutdown {
		reason := "not now"
		if errors.Is(err, lookup.ErrNoFeed) {
			s.scratch.reply(authent.Err.With("there is no feed of changes"))
		} else {
			s.scratch.reply(authent.Dead.With(reason))
		}
		s.scratch.send()
		if ctx.Err() != nil {
			s.conn.Resume()
		}
		s.out.drain()
	}
	cancel(nil)
	s.conn.Close() // ends the reader
	<-gone
	return false
}

// Watch implements lookup.Watcher. Every server is watched, since any may be
// asked: one that has its changes from another tells of them later, and what
// was remembered of its older answers is then out of date once more.
//
// It returns ErrNoFeed when no server has a feed.
func (c *Client) Watch(ctx context.Context, changed func(lookup.Change)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := make(chan lookup.Change)
	ended := make(chan error)
	for _, u := range c.servers {
		go func() {
			ended <- u.watch(ctx, &c.closed, func(ch lookup.Change) {
				select {
				case changes <- ch:
				case <-ctx.Done():
				}
			})
		}()
	}
	var failed error
	for left := len(c.servers); left > 0; {
		select {
		case ch := <-changes:
			changed(ch)
		case err := <-ended:
			left--
			if err != nil {
				failed = err
			}
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return failed
}

// watch passes on a server's changes until ctx ends. Errors: ErrNoFeed.
func (u *upstream) watch(ctx context.Context, closed interface{ Load() bool }, changed func(lookup.Change)) error {
	missed := false
	for failures := 0; ctx.Err() == nil; failures++ {
		if closed.Load() {
			return fmt.Errorf("watch %s: %w", u.address, errClosed)
		}
		err := u.watchOnce(ctx, func() {
			failures = 0
			if missed {
				changed(lookup.Change{})
			}
		}, changed)
		if errors.Is(err, lookup.ErrNoFeed) {
			return fmt.Errorf("watch %s: %w", u.address, err)
		}
		missed = true
		pause(ctx, min(minBackoff<<min(failures, 16), u.opts.MaxBackoff))
	}
	return nil
}

// watchOnce is one connection's feed.
func (u *upstream) watchOnce(ctx context.Context, live func(), changed func(lookup.Change)) error {
	conn, err := u.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.close()
	if !conn.ext.feed {
		return lookup.ErrNoFeed
	}
	release := conn.wire.Bind(ctx)
	defer release()
	conn.wire.SetDeadline(time.Time{})
	conn.wire.SetIdle(aliveLimit)
	if err := conn.send(string(authent.Feed)); err != nil {
		return err
	}
	var last uint64
	for begun := false; ; {
		reply, err := conn.read()
		switch {
		case err != nil:
			return err
		case reply.Kind == authent.Err:
			return fmt.Errorf("%w: server says %q", lookup.ErrNoFeed, reply.Reason())
		case reply.Kind == authent.OK && !begun:
			begun = true
			live()
			continue
		case reply.Kind != authent.Data || !begun:
			return fmt.Errorf("%w: %s in a feed", authent.ErrGarbage, reply.Kind)
		}
		c, found, err := parseFeed(reply.Text, last)
		if err != nil {
			return err
		}
		if found {
			last++
			changed(c)
		}
	}
}

// connect is dial with a time limit of its own.
func (u *upstream) connect(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, u.opts.Attempt)
	defer cancel()
	return u.dial(ctx)
}
