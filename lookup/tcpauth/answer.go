package tcpauth

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"switchyard/lookup"
	"switchyard/lookup/internal/authent"
	"switchyard/lookup/internal/netwin"
)

// answer is the answer to one command in the making.
type answer struct {
	s   *session
	end string // the line end that the client uses
	tag []byte // nil: none
	sum sum
	buf []byte

	verb authent.Verb // of the command, for the statistics
}

// run asks the database. The daemon's end does not end a change that is under
// way.
func (a *answer) run(ctx context.Context, r authent.Request) {
	server := a.s.server
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), server.limit(r.Verb))
	defer cancel()
	switch r.Verb {
	case authent.Lookup:
		account, err := server.db.Lookup(ctx, r.Name)
		a.account(account, err)
	case authent.Check:
		a.check(ctx, r)
	case authent.Set:
		a.change(r, func() (string, error) {
			_, err := server.db.Set(ctx, r.Name, r.Password, r.Labels)
			return r.Name + " added to database", err
		})
	case authent.Delete:
		a.change(r, func() (string, error) {
			return r.Name + " deleted from database", server.db.Delete(ctx, r.Name)
		})
	case authent.Search:
		a.search(ctx, r)
	case authent.XKeys:
		a.keys(ctx, r)
	case authent.XKeyMechs:
		a.allMechanisms(ctx)
	case authent.Version:
		a.reply(a.s.version())
	case authent.Help:
		for _, text := range helpLines() {
			a.reply(authent.Data.With(text))
		}
		a.reply(authent.OK.With(""))
	default:
		a.reply(authent.Err.With("not with a tag"))
	}
}

// quick answers a lookup at once, where the database can do that. It makes
// next to no garbage.
func (a *answer) quick(name string) {
	start := len(a.buf)
	line := append(a.buf, authent.OK...)
	line = append(line, ' ')
	line = append(line, name...)
	line = append(line, " config 0 "...)
	bare := len(line) - 1
	line, err := a.s.server.immediate.AppendAnswer(line, name)
	if err != nil {
		a.refuse(err)
		return
	}
	if len(line) == bare+1 {
		line = line[:bare] // no labels
	}
	a.s.server.count(authent.Lookup, authent.OK)
	if a.tag == nil {
		a.buf = append(line, a.end...)
		return
	}
	// The tag goes in front: the line is moved behind itself.
	a.sum = a.sum.add(line[start:])
	end := len(line)
	line = appendTagged(line, a.tag, a.sum, line[start:end])
	a.buf = append(append(line[:start], line[end:]...), a.end...)
}

func (a *answer) check(ctx context.Context, r authent.Request) {
	if *r.Password == netwin.NoPassword {
		a.refuse(lookup.ErrRejected)
		return
	}
	account, err := a.s.server.db.Check(ctx, lookup.Credentials{Name: r.Name, Password: *r.Password, Client: r.Client})
	a.account(account, err)
}

// account answers a lookup or a check.
func (a *answer) account(account lookup.Account, err error) {
	if err != nil {
		a.refuse(err)
		return
	}
	r, err := authent.AccountReply(account)
	if err != nil {
		a.s.server.opts.Logger.Warn("the protocol cannot carry a record", zap.String("user", account.Name), zap.Error(err))
		r = authent.Dead.With("the record cannot be carried")
	}
	a.reply(r)
}

// change answers a set or a del.
func (a *answer) change(r authent.Request, do func() (string, error)) {
	if a.s.server.opts.ReadOnly {
		a.reply(authent.Err.With("this server is read-only"))
		return
	}
	text, err := do()
	if err != nil {
		a.refuse(err)
		return
	}
	a.s.server.opts.Logger.Debug("user changed", zap.String("verb", string(r.Verb)), zap.String("user", r.Name), zap.Stringer("client", a.s.client))
	a.reply(authent.OK.With(text))
}

func (a *answer) search(ctx context.Context, r authent.Request) {
	names, found, total, err := a.s.server.db.Search(ctx, r.Pattern, r.From, r.Max)
	if err != nil {
		a.refuse(err)
		return
	}
	for _, name := range names {
		a.reply(authent.Data.With(name))
		if len(a.buf) >= outletSize/8 {
			a.send()
			a.s.out.flush()
		}
	}
	a.reply(authent.SearchReply(found, total))
}

// What people read behind -ERR and -DEAD.
const (
	noSuchUser   = "no such user"
	databaseAway = "user database unavailable"
)

// refuse is the one place where an error becomes a reply: a certain "no" is
// -ERR, everything else -DEAD. What went wrong inside is not told.
func (a *answer) refuse(err error) {
	var refused *netwin.RefusedError
	switch lookup.AnswerOf(err) {
	case lookup.AnswerAbsent:
		a.reply(authent.Err.With(noSuchUser))
		return
	case lookup.AnswerRejected:
		a.reply(authent.Err.With("password wrong or not a valid user"))
		return
	}
	if errors.As(err, &refused) && !errors.Is(err, lookup.ErrUnavailable) {
		a.reply(authent.Err.With(refused.Reason))
		return
	}
	a.s.server.opts.Logger.Warn("user database unavailable", zap.Error(err))
	a.reply(authent.Dead.With(databaseAway))
}

// reply adds a line.
func (a *answer) reply(r authent.Reply) {
	line, err := r.Line()
	if err != nil {
		r.Kind, line = authent.Dead, string(authent.Dead)+" the answer cannot be carried"
	}
	a.s.server.count(a.verb, r.Kind)
	if a.tag == nil {
		a.buf = append(a.buf, line...)
	} else {
		a.sum = a.sum.add([]byte(line))
		a.buf = appendTagged(a.buf, a.tag, a.sum, []byte(line))
	}
	a.buf = append(a.buf, a.end...)
}

// send passes on what there is.
func (a *answer) send() {
	a.s.out.add(a.buf)
	a.buf = a.buf[:0]
}
