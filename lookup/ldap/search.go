package ldap

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-ldap/ldap/v3"

	"switchyard/lookup"
)

// maxAbandoned is how many searches on one connection may be without an answer
// after their callers left. The library cannot abandon a search, so each keeps
// a goroutine; beyond this the connection is replaced, which ends them all.
const maxAbandoned = 64

// maxIdle is how many goroutines of a connection wait for searches.
const maxIdle = 16

// searchConn is a connection bound as the service, shared by many searches at
// a time. The library has no context for a search and no time-out that costs
// nothing, so both are kept here.
type searchConn struct {
	*connection
	server *server
	served atomic.Bool // it answered a search
	calls  chan *call  // to idle goroutines
	idle   atomic.Int32

	mu        sync.Mutex
	running   int
	abandoned int
	busySince time.Time // when running last grew from zero
}

func (c *searchConn) usable() bool { return !c.line.isOver() && !c.IsClosing() }

func (c *searchConn) load() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running
}

// find asks one server. It answers with one entry, lookup.ErrAbsent, or an
// error that says why the server cannot tell.
func (s *server) find(ctx context.Context, request *ldap.SearchRequest) (*ldap.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.SearchTimeout)
	defer cancel()
	for tries := 0; ; tries++ {
		c, err := s.connected(ctx)
		if err != nil {
			return nil, err
		}
		result, err := c.search(ctx, request)
		// Connections that the server closed while they were idle are found
		// out by the searches on them; that says nothing about the server.
		if err != nil && tries < s.opts.SearchConns && ctx.Err() == nil && !c.usable() {
			continue
		}
		return single(result, err)
	}
}

// prove makes sure that a server which says "nothing there" would have said so
// if there were something: access rules and replicas that are still being
// loaded hide entries without an error.
func (s *server) prove(c *connection) error {
	if err := c.line.SetReadDeadline(time.Now().Add(s.opts.SearchTimeout)); err != nil {
		return err
	}
	what, request := "the base", ldap.NewSearchRequest(s.dir.base, ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, 0, false,
		"(objectClass=*)", []string{"1.1"}, nil) // RFC 4511 §4.5.1.8: no attributes
	if s.opts.Canary != "" {
		what, request = "the canary "+s.opts.Canary, s.dir.request(s.opts.Canary, s.dir.wanted)
		if s.opts.Verify != nil {
			request.Attributes = s.dir.wantedWithHash
		}
	}
	result, err := c.Search(request)
	entry, err := single(result, err)
	if errors.Is(err, lookup.ErrAbsent) {
		// The chain of errors ends here: this is not about an account.
		return fmt.Errorf("%s is not there or may not be read", what)
	}
	if err != nil {
		return fmt.Errorf("look for %s: %w", what, err)
	}
	if s.opts.Verify != nil && s.opts.Canary != "" && len(s.dir.hashes(entry)) == 0 {
		return fmt.Errorf("%s of %s is missing or may not be read", s.opts.Hash, what)
	}
	return c.line.SetReadDeadline(time.Time{})
}

// single makes an answer of what a search brought. Only success counts as
// having seen everything, and a referral as not having.
func single(result *ldap.SearchResult, err error) (*ldap.Entry, error) {
	var entries []*ldap.Entry
	if result != nil {
		entries = result.Entries
	}
	switch {
	case len(entries) > 1:
		return nil, &AmbiguousError{DNs: []string{entries[0].DN, entries[1].DN}}
	case ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject):
		return nil, fmt.Errorf("the base is not there: %w", err)
	case err != nil:
		return nil, err
	case len(result.Referrals) > 0:
		return nil, fmt.Errorf("the server refers to %.200q for a part of the base", result.Referrals[0])
	case len(entries) == 0:
		return nil, lookup.ErrAbsent
	case entries[0].DN == "":
		return nil, errors.New("the entry has no DN")
	}
	return entries[0], nil
}

// search runs a search until there is an answer or ctx ends.
func (c *searchConn) search(ctx context.Context, request *ldap.SearchRequest) (*ldap.SearchResult, error) {
	call := c.begin(request)
	select {
	case c.calls <- call: // to a goroutine that waits for one
	default:
		if err := c.server.dir.start(func() { c.work(call) }); err != nil {
			c.finish(call)
			return nil, err
		}
	}
	select {
	case a := <-call.answer:
		return a.result, a.err
	case <-ctx.Done():
		c.leave(call)
		return nil, fmt.Errorf("wait for the answer: %w", ctx.Err())
	}
}

// work runs a search, and others after it as long as there are some: a
// goroutine whose stack has grown once is cheaper than many whose stacks have
// to grow.
func (c *searchConn) work(call *call) {
	for {
		c.run(call)
		if c.idle.Add(1) > maxIdle {
			c.idle.Add(-1)
			return
		}
		select {
		case call = <-c.calls:
			c.idle.Add(-1)
		case <-c.line.over:
			c.idle.Add(-1)
			return
		}
	}
}

// run puts one search to the server.
func (c *searchConn) run(call *call) {
	var a answer
	defer func() {
		if p := recover(); p != nil {
			a = answer{err: fmt.Errorf("the answer makes no sense: %v", p)}
			c.line.Close()
		}
		c.finish(call)
		call.answer <- a
	}()
	a.result, a.err = c.Search(call.request)
	if a.err == nil {
		c.served.Store(true)
	}
}

// answer is what the library returned.
type answer struct {
	result *ldap.SearchResult
	err    error
}

// call is a search that goes on.
type call struct {
	request *ldap.SearchRequest
	answer  chan answer

	// Guarded by the connection's mu.
	finished bool // there is an answer
	left     bool // the caller gave up
}

// begin counts a search in.
func (c *searchConn) begin(request *ldap.SearchRequest) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running == 0 {
		c.busySince = time.Now()
	}
	c.running++
	return &call{request: request, answer: make(chan answer, 1)}
}

// finish counts a search out.
func (c *searchConn) finish(call *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	call.finished = true
	c.running--
	if call.left {
		c.abandoned--
	}
}

// leave says that nobody waits for a search any more. It ends the connection
// when the server was silent for most of a SearchTimeout in which it had
// something to say, or when too many searches go on for nobody.
func (c *searchConn) leave(call *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if call.finished {
		return
	}
	call.left = true
	c.abandoned++
	silentSince := c.busySince
	if heard := time.Unix(0, c.line.heard.Load()); heard.After(silentSince) {
		silentSince = heard
	}
	if time.Since(silentSince) >= c.server.opts.SearchTimeout*3/4 || c.abandoned > maxAbandoned {
		c.line.Close()
	}
}
