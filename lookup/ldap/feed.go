package ldap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-ldap/ldap/v3"
	"go.uber.org/zap"

	"switchyard/lookup"
)

const (
	// feedPulse is how often a server that has nothing to tell is asked
	// whether it is there. It has SearchTimeout to answer.
	feedPulse = 30 * time.Second

	// feedBuffer is how many messages may wait to be looked at.
	feedBuffer = 64

	// passwordTime is the operational attribute of draft-behera-ldap-password-policy
	// that says when the password was last changed.
	passwordTime = "pwdChangedTime"
)

var errNoSync = fmt.Errorf("%w: no content synchronisation (RFC 4533)", lookup.ErrNoFeed)

// Watch implements lookup.Watcher with content synchronisation, refreshAndPersist
// (RFC 4533 §3.4), on the first server that has it. It reads all accounts
// once, so the service must not have a size limit, and remembers of each a
// name and two hashes, to tell whose a deletion was and what a change was
// about: some 150 bytes, for a million accounts at most.
//
// Whether a password was changed is seen from pwdChangedTime, where the server
// keeps it, or from the hash, when Options.Verify is set. Without either, each
// change of an account may be one of its password and says so.
//
// It returns an error when the Directory is closed.
func (d *Directory) Watch(ctx context.Context, changed func(lookup.Change)) error {
	everyone, err := d.filter.any()
	if err != nil {
		return fmt.Errorf("%w: %w", lookup.ErrNoFeed, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.life, cancel)()
	f := &feed{dir: d, filter: everyone, table: newTable(d, changed)}
	for pause := d.opts.BackOff / 40; ; pause = min(2*pause, d.opts.BackOff) {
		live, err := f.followAny(ctx)
		switch {
		case d.life.Err() != nil:
			return errClosed
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, lookup.ErrNoFeed):
			return err
		case live:
			d.opts.Logger.Warn("feed of changes lost", zap.NamedError("reason", err))
			pause = d.opts.BackOff / 40
		}
		sleep(ctx, pause)
	}
}

// feed is one Watch.
type feed struct {
	dir    *Directory
	filter string
	table  *table

	// Where the feed was, for going on from there.
	from   *server
	cookie []byte
}

// followAny follows the first server that can be, and reports whether one
// could. The error is lookup.ErrNoFeed when all servers answer and none can.
func (f *feed) followAny(ctx context.Context) (live bool, err error) {
	var failures []error
	for _, s := range f.dir.servers {
		live, err := f.follow(ctx, s)
		if live || ctx.Err() != nil {
			return live, err
		}
		failures = append(failures, fmt.Errorf("%s: %w", s.url, err))
	}
	able := slices.ContainsFunc(failures, func(err error) bool { return !errors.Is(err, lookup.ErrNoFeed) })
	err = listed(failures)
	if able {
		// One that does not answer may be one that can.
		err = fmt.Errorf("no server to follow: %v", err)
	}
	return false, err
}

// follow listens to a server until its feed breaks. It reports whether the feed
// was whole for a time.
func (f *feed) follow(ctx context.Context, s *server) (live bool, err error) {
	c, err := s.dial(ctx)
	if err != nil {
		return false, err
	}
	defer c.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.line.Close() })
	defer stop()
	if err := s.bindService(c); err != nil {
		return false, err
	}
	if err := s.prove(c); err != nil {
		return false, err
	}
	if err := s.offersSync(c); err != nil {
		return false, err
	}
	if !stop() {
		return false, ctx.Err()
	}
	pulse := make(chan struct{})
	go func() {
		defer close(pulse)
		s.pulse(ctx, c)
	}()
	defer func() {
		cancel()
		c.Unbind() // RFC 4511 §4.3: a server with a search that goes on is told
		<-pulse
	}()

	if f.from != s {
		f.from, f.cookie = s, nil
	}
	attributes := slices.Clip(f.dir.wanted)
	if f.dir.opts.Verify != nil {
		attributes = append(attributes, f.dir.opts.Hash)
	}
	request := ldap.NewSearchRequest(f.dir.base, f.dir.scope(), ldap.NeverDerefAliases, 0, 0, false, f.filter, attributes, nil)
	f.table.begin(f.cookie == nil)
	r := c.Syncrepl(ctx, request, feedBuffer, ldap.SyncRequestModeRefreshAndPersist, f.cookie, false)
	for r.Next() {
		if err := f.take(r.Entry(), r.Controls()); err != nil {
			return f.table.live, err
		}
	}
	err = r.Err()
	switch {
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSyncRefreshRequired):
		f.cookie = nil
	case ldap.IsErrorWithCode(err, ldap.LDAPResultUnavailableCriticalExtension), err == nil && !f.table.live && ctx.Err() == nil:
		return false, errNoSync
	case err == nil:
		err = errors.New("the server ended it")
	}
	return f.table.live, err
}

// take looks at one message.
func (f *feed) take(entry *ldap.Entry, controls []ldap.Control) error {
	if entry != nil && len(controls) == 0 {
		return errNoSync // an ordinary search
	}
	for _, control := range controls {
		switch c := control.(type) {
		case *ldap.ControlSyncState:
			f.keep(c.Cookie)
			f.table.entry([16]byte(c.EntryUUID), c.State, entry)
		case *ldap.ControlSyncInfo:
			f.info(c)
		case *ldap.ControlSyncDone:
			f.keep(c.Cookie)
		}
	}
	return nil
}

// info looks at a message about the feed itself (RFC 4533 §2.5).
func (f *feed) info(c *ldap.ControlSyncInfo) {
	switch {
	case c.NewCookie != nil:
		f.keep(c.NewCookie.Cookie)
	case c.RefreshDelete != nil:
		f.keep(c.RefreshDelete.Cookie)
		if c.RefreshDelete.RefreshDone {
			f.table.refreshed(false)
		}
	case c.RefreshPresent != nil:
		f.keep(c.RefreshPresent.Cookie)
		if c.RefreshPresent.RefreshDone {
			f.table.refreshed(true)
		}
	case c.SyncIdSet != nil:
		f.keep(c.SyncIdSet.Cookie)
		state := ldap.SyncStatePresent
		if c.SyncIdSet.RefreshDeletes {
			state = ldap.SyncStateDelete
		}
		for _, id := range c.SyncIdSet.SyncUUIDs {
			f.table.entry([16]byte(id), state, nil)
		}
	}
}

func (f *feed) keep(cookie []byte) {
	if len(cookie) > 0 {
		f.cookie = slices.Clone(cookie)
	}
}

// offersSync asks the server whether it knows the control (RFC 4512 §5.1). One
// that does not show what it can is tried.
func (s *server) offersSync(c *connection) error {
	if err := c.line.SetReadDeadline(time.Now().Add(s.opts.SearchTimeout)); err != nil {
		return err
	}
	r, err := c.Search(ldap.NewSearchRequest("", ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, 0, false,
		"(objectClass=*)", []string{"supportedControl"}, nil))
	if err != nil && c.line.isOver() {
		return fmt.Errorf("ask for the server's abilities: %w", err)
	}
	if err == nil && len(r.Entries) == 1 {
		known := r.Entries[0].GetEqualFoldAttributeValues("supportedControl")
		if len(known) > 0 && !slices.Contains(known, ldap.ControlTypeSyncRequest) {
			return errNoSync
		}
	}
	return c.line.SetReadDeadline(time.Time{})
}

// pulse ends the connection when the server is silent though it was asked for
// something.
func (s *server) pulse(ctx context.Context, c *connection) {
	look := ldap.NewSearchRequest(s.dir.base, ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, 0, false,
		"(objectClass=*)", []string{"1.1"}, nil)
	for {
		sleep(ctx, feedPulse)
		if ctx.Err() != nil {
			return
		}
		var silent *time.Timer
		silent = time.AfterFunc(s.opts.SearchTimeout, func() {
			// While it says much, the answer may be behind that.
			if time.Since(time.Unix(0, c.line.heard.Load())) < s.opts.SearchTimeout {
				silent.Reset(s.opts.SearchTimeout)
				return
			}
			c.line.Close()
		})
		_, err := c.Search(look)
		silent.Stop()
		if err != nil && c.line.isOver() {
			return
		}
	}
}
