package imap

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"switchyard/backend"
	"switchyard/backend/imap/deflate"
	"switchyard/backend/imap/syntax"
	"switchyard/internal/wire"

	"go.uber.org/zap"
)

// session is one connection. Its goroutine alone touches it.
type session struct {
	srv   *Server
	conn  *transport
	in    input
	out   *syntax.Writer
	lex   *syntax.Lexer
	start time.Time

	id      string         // in the logs; a trusted proxy's when it gives one
	peer    netip.AddrPort // the socket's other end
	client  netip.AddrPort // the user's address, as far as it is believed
	hint    uint64         // the home generation that a trusted proxy passed on
	idSeen  bool
	proxied bool
	probed  bool // a proxy has asked how this node is

	account string // "" before login
	user    backend.User
	box     *selected // nil without a mailbox

	stop <-chan struct{} // closed when the server stops

	// What the client has enabled.
	rev2, condstore, qresync, uidOnly bool

	bad, failed int // mistakes, and logins that failed

	tag string // of the command in hand

	// then runs behind the tagged answer to the command in hand.
	then func(context.Context) error
}

// states say when a command is allowed (RFC 9051 §3).
type states int

const (
	before states = 1 << iota // not authenticated
	authenticated
	inMailbox

	after  = authenticated | inMailbox
	always = before | after
)

func (s *session) state() states {
	switch {
	case s.user == nil:
		return before
	case s.box == nil:
		return authenticated
	default:
		return inMailbox
	}
}

// ending is why a session ends, as an error that goes up to Serve.
type ending struct {
	reason string // for the log
	bye    string // for the client; "": it has said goodbye or cannot hear
	err    error
}

func (e *ending) Error() string { return e.reason }
func (e *ending) Unwrap() error { return e.err }

// lost is the ending when the connection breaks.
func lost(err error) *ending {
	switch {
	case wire.IsTimeout(err):
		return &ending{reason: "timeout", bye: "Too long without a word", err: err}
	case errors.Is(err, wire.ErrLineTooLong):
		return &ending{reason: "line too long", bye: "A line is too long", err: err}
	case errors.Is(err, wire.ErrBareLF):
		// What follows could be the literal of a command or a command: two
		// readers may disagree, so nobody goes on.
		return &ending{reason: "bare LF", bye: "Lines end in CR LF", err: err}
	case errors.Is(err, deflate.ErrDamaged):
		return &ending{reason: "damaged compressed data", bye: "This is no compressed data", err: err}
	default:
		return &ending{reason: "connection lost", err: err}
	}
}

var errLogout = &ending{reason: "logout"}

// run greets and serves commands until the session ends.
func (s *session) run(ctx context.Context) *ending {
	s.stop = ctx.Done()
	s.conn.SetIdle(s.srv.o.DataTimeout)
	s.conn.SetDeadline(time.Now().Add(s.srv.o.LoginTimeout))
	if err := s.greet(ctx); err != nil {
		return asEnding(err)
	}
	// A command that has begun is finished: ctx's end reaches it only after
	// finishTimeout.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(finishTimeout, cancel) })()
	for {
		line, err := s.in.first(ctx)
		if err != nil {
			return asEnding(err)
		}
		if err := s.command(work, line); err != nil {
			return asEnding(err)
		}
	}
}

func asEnding(err error) *ending {
	var e *ending
	if errors.As(err, &e) {
		return e
	}
	return lost(err)
}

// bye says goodbye if there is something to say.
func (s *session) bye(e *ending) {
	if e.bye == "" {
		return
	}
	s.conn.SetIdle(byeTimeout)
	s.conn.SetDeadline(time.Time{})
	s.conn.Resume()
	s.conn.Line("* BYE %s", e.bye)
}

// finishTimeout is how long a command may go on when the server stops; it is
// shorter than the grace of internal/server.
const finishTimeout = 4 * time.Second

// byeTimeout bounds the last write.
const byeTimeout = 2 * time.Second

// command runs one command and answers it.
func (s *session) command(ctx context.Context, line []byte) error {
	s.lex = syntax.NewLexer(&s.in, line)
	s.then = nil
	cmd, r, err := s.dispatch(ctx)
	if err != nil {
		if r, err = s.answer(err); err != nil {
			return err
		}
	}
	if err := s.lex.Skip(s.in.discard); err != nil {
		if errors.Is(err, syntax.ErrLost) {
			return &ending{reason: "literal too big", bye: "A literal is too big to be passed over"}
		}
		return asEnding(err)
	}
	if err := s.sync(ctx, !cmd.keepNumbers && !r.keepNumbers); err != nil {
		return err
	}
	if r.expunged {
		s.addHighest(&r)
	}
	s.tagged(s.tag, r)
	if err := s.flush(); err != nil {
		return err
	}
	if s.then != nil {
		if err := s.then(ctx); err != nil {
			return err
		}
	}
	return s.judge(r)
}

// dispatch reads a command's tag and name and runs it. Mistakes in a command's
// words are *syntax.Error; the answer's tag is "*" when there was none.
func (s *session) dispatch(ctx context.Context) (cmd command, r reply, err error) {
	s.tag = "*"
	tag, err := s.lex.Tag()
	if err != nil {
		return cmd, r, err
	}
	s.tag = tag
	if err := s.lex.SP(); err != nil {
		return cmd, r, err
	}
	name, err := s.lex.Word()
	if err == nil && name == "UID" {
		if err = s.lex.SP(); err == nil {
			name, err = s.lex.Word()
			name = "UID " + name
		}
	}
	if err != nil {
		return cmd, r, err
	}
	cmd, known := s.srv.commands[name]
	switch {
	case !known:
		return cmd, r, syntax.Errorf("Unknown command")
	case cmd.in&s.state() != 0:
	case s.state() == before:
		return cmd, r, syntax.Errorf("Log in first")
	case cmd.in == before:
		return cmd, r, syntax.Errorf("Already logged in")
	case cmd.in == inMailbox:
		return cmd, r, syntax.Errorf("Select a mailbox first")
	default:
		return cmd, r, syntax.Errorf("Not while a mailbox is selected")
	}
	if cmd.numbers && s.uidOnly {
		return cmd, uidRequired(), nil
	}
	r, err = cmd.run(s, ctx)
	return cmd, r, err
}

// judge ends a session that makes too many mistakes.
func (s *session) judge(r reply) error {
	if r.status == "BAD" {
		s.bad++
	}
	limit := maxBadBefore
	if s.user != nil {
		limit = maxBad
	}
	switch {
	case s.bad >= limit:
		return &ending{reason: "too many mistakes", bye: "Too many mistakes"}
	case s.failed >= maxFailedLogins:
		return &ending{reason: "too many failed logins", bye: "Too many failed logins"}
	}
	return nil
}

// flush sends what is written.
func (s *session) flush() error {
	if err := s.out.Err(); err != nil {
		return lost(err)
	}
	if err := s.conn.Flush(); err != nil {
		return lost(err)
	}
	return nil
}

func (s *session) log() *zap.Logger {
	return s.srv.o.Logger.With(zap.String("session", s.id), zap.String("user", s.account))
}

// command is how a command is run.
type command struct {
	run func(*session, context.Context) (reply, error)
	in  states

	// numbers says that it has or gives message numbers, and keepNumbers that
	// it must not be answered with EXPUNGE, since its client may count
	// messages at the same time (RFC 9051 §7.5.1).
	numbers, keepNumbers bool
}

// commands lists every command. UNAUTHENTICATE is not among them on purpose: a
// session that a proxy opened must not become another user's.
func commands() map[string]command {
	return map[string]command{
		"CAPABILITY":   {run: (*session).capability, in: always},
		"NOOP":         {run: (*session).noop, in: always},
		"LOGOUT":       {run: (*session).logout, in: always},
		"ID":           {run: (*session).identify, in: always},
		"STARTTLS":     {run: (*session).startTLS, in: before},
		"LOGIN":        {run: (*session).login, in: before},
		"AUTHENTICATE": {run: (*session).authenticate, in: before},

		"ENABLE":      {run: (*session).enable, in: authenticated},
		"SELECT":      {run: (*session).selectBox, in: after},
		"EXAMINE":     {run: (*session).examine, in: after},
		"CREATE":      {run: (*session).create, in: after},
		"DELETE":      {run: (*session).delete, in: after},
		"RENAME":      {run: (*session).rename, in: after},
		"SUBSCRIBE":   {run: (*session).subscribe, in: after},
		"UNSUBSCRIBE": {run: (*session).unsubscribe, in: after},
		"LIST":        {run: (*session).list, in: after},
		"LSUB":        {run: (*session).lsub, in: after},
		"NAMESPACE":   {run: (*session).namespace, in: after},
		"STATUS":      {run: (*session).status, in: after},
		"APPEND":      {run: (*session).append, in: after},
		"IDLE":        {run: (*session).idle, in: after},
		"COMPRESS":    {run: (*session).compress, in: after},

		"GETQUOTA":     {run: (*session).getQuota, in: after},
		"GETQUOTAROOT": {run: (*session).getQuotaRoot, in: after},
		"SETQUOTA":     {run: (*session).setQuota, in: after},
		"GETMETADATA":  {run: (*session).getMetadata, in: after},
		"SETMETADATA":  {run: (*session).setMetadata, in: after},

		"CLOSE":       {run: (*session).close, in: inMailbox},
		"UNSELECT":    {run: (*session).unselect, in: inMailbox},
		"CHECK":       {run: (*session).noop, in: inMailbox},
		"EXPUNGE":     {run: (*session).expunge, in: inMailbox},
		"UID EXPUNGE": {run: (*session).uidExpunge, in: inMailbox},
		"SEARCH":      {run: (*session).search, in: inMailbox, numbers: true, keepNumbers: true},
		"UID SEARCH":  {run: (*session).uidSearch, in: inMailbox},
		"SORT":        {run: (*session).sort, in: inMailbox, numbers: true, keepNumbers: true},
		"UID SORT":    {run: (*session).uidSort, in: inMailbox},
		"THREAD":      {run: (*session).thread, in: inMailbox, numbers: true, keepNumbers: true},
		"UID THREAD":  {run: (*session).uidThread, in: inMailbox},
		"FETCH":       {run: (*session).fetch, in: inMailbox, numbers: true, keepNumbers: true},
		"UID FETCH":   {run: (*session).uidFetch, in: inMailbox},
		"STORE":       {run: (*session).store, in: inMailbox, numbers: true, keepNumbers: true},
		"UID STORE":   {run: (*session).uidStore, in: inMailbox},
		"COPY":        {run: (*session).copy, in: inMailbox, numbers: true},
		"UID COPY":    {run: (*session).uidCopy, in: inMailbox},
		"MOVE":        {run: (*session).move, in: inMailbox, numbers: true},
		"UID MOVE":    {run: (*session).uidMove, in: inMailbox},
		"REPLACE":     {run: (*session).replace, in: inMailbox, numbers: true},
		"UID REPLACE": {run: (*session).uidReplace, in: inMailbox},
	}
}
