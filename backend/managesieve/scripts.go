package managesieve

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"switchyard/backend"
	"switchyard/backend/sieve"

	"go.uber.org/zap"
)

// maxRedirects is what the MAXREDIRECTS capability says.
var maxRedirects = strconv.Itoa(sieve.MaxRedirects)

// literal writes a server's literal, which has no plus (RFC 5804 §4).
func literal(text string) string { return fmt.Sprintf("{%d}\r\n%s", len(text), text) }

// command runs one command. It returns an error when the session ends.
func (s *session) command(ctx context.Context, q *request) error {
	switch q.name {
	case "CAPABILITY":
		if len(q.args) > 0 {
			return s.mistake("CAPABILITY takes no argument")
		}
		s.capabilities("done")
		return nil
	case "NOOP":
		return s.noop(q)
	case "LOGOUT":
		s.ok("goodbye")
		return errLogout
	case "STARTTLS":
		return s.startTLS(ctx, q)
	case "AUTHENTICATE":
		return s.authenticate(ctx, q)
	case "XCLIENT":
		return s.xclient(q)
	}
	run, known := map[string]func(context.Context, *request) error{
		"HAVESPACE": s.haveSpace, "PUTSCRIPT": s.putScript, "LISTSCRIPTS": s.listScripts, "SETACTIVE": s.setActive,
		"GETSCRIPT": s.getScript, "DELETESCRIPT": s.deleteScript, "RENAMESCRIPT": s.renameScript, "CHECKSCRIPT": s.checkScript,
	}[q.name]
	switch {
	case !known:
		return s.mistake("unknown command")
	case s.user == nil:
		return s.mistake("log in first")
	}
	return s.answer(run(ctx, q))
}

// noop is for clients that want to know where they are (RFC 5804 §2.13).
func (s *session) noop(q *request) error {
	args, err := q.strings(0, 1)
	if err != nil {
		return s.mistake(err.Error())
	}
	if len(args) == 0 {
		s.ok("done")
		return nil
	}
	s.conn.Printf("OK (TAG %s) \"done\"\r\n", quote(args[0]))
	return nil
}

// answer says how a command on scripts ended.
func (s *session) answer(err error) error {
	var mistake *mistakeError
	var wrong *sieve.Error
	switch {
	case err == nil:
		s.ok("done")
	case errors.As(err, &mistake):
		return s.mistake(mistake.text)
	case errors.As(err, &wrong):
		s.no("", wrong.Error())
	case errors.Is(err, sieve.ErrNoScript):
		s.no("NONEXISTENT", err.Error())
	case errors.Is(err, sieve.ErrScriptExists):
		s.no("ALREADYEXISTS", err.Error())
	case errors.Is(err, sieve.ErrActive):
		s.no("ACTIVE", err.Error())
	case errors.Is(err, sieve.ErrScriptTooBig):
		s.no("QUOTA/MAXSIZE", err.Error())
	case errors.Is(err, sieve.ErrTooManyScript):
		s.no("QUOTA/MAXSCRIPTS", err.Error())
	case errors.Is(err, sieve.ErrScriptName):
		s.no("", err.Error())
	case errors.Is(err, backend.ErrBusy), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		s.no("TRYLATER", "not possible now")
	default:
		s.no("", "the server has a problem")
		s.srv.o.Logger.Error("command failed", zap.String("session", s.origin.Session), zap.String("user", s.user.Account()), zap.Error(err))
	}
	return nil
}

func (s *session) scripts() sieve.Scripts { return sieve.ScriptsOf(s.user) }

// haveSpace asks whether a script could be put (RFC 5804 §2.5).
func (s *session) haveSpace(ctx context.Context, q *request) error {
	if len(q.args) != 2 || q.args[0].number || !q.args[1].number {
		return &mistakeError{"HAVESPACE takes a name and a size"}
	}
	size, err := strconv.ParseInt(q.args[1].text, 10, 64)
	if err != nil {
		return &mistakeError{"HAVESPACE takes a name and a size"}
	}
	return s.scripts().Room(ctx, q.args[0].text, size)
}

func (s *session) putScript(ctx context.Context, q *request) error {
	args, err := q.strings(2, 2)
	if err != nil {
		return err
	}
	s.changes++
	return s.scripts().Put(ctx, args[0], args[1])
}

func (s *session) checkScript(_ context.Context, q *request) error {
	args, err := q.strings(1, 1)
	if err != nil {
		return err
	}
	_, err = sieve.Compile(args[0])
	return err
}

func (s *session) listScripts(ctx context.Context, q *request) error {
	if len(q.args) > 0 {
		return &mistakeError{"LISTSCRIPTS takes no argument"}
	}
	list, err := s.scripts().List(ctx)
	for _, l := range list {
		active := ""
		if l.Active {
			active = " ACTIVE"
		}
		s.conn.Printf("%s%s\r\n", quote(l.Name), active)
	}
	return err
}

func (s *session) setActive(ctx context.Context, q *request) error {
	args, err := q.strings(1, 1)
	if err != nil {
		return err
	}
	s.changes++
	return s.scripts().SetActive(ctx, args[0])
}

func (s *session) getScript(ctx context.Context, q *request) error {
	args, err := q.strings(1, 1)
	if err != nil {
		return err
	}
	text, err := s.scripts().Get(ctx, args[0])
	if err == nil {
		s.conn.Printf("%s\r\n", literal(text))
	}
	return err
}

func (s *session) deleteScript(ctx context.Context, q *request) error {
	args, err := q.strings(1, 1)
	if err != nil {
		return err
	}
	s.changes++
	return s.scripts().Delete(ctx, args[0])
}

func (s *session) renameScript(ctx context.Context, q *request) error {
	args, err := q.strings(2, 2)
	if err != nil {
		return err
	}
	s.changes++
	return s.scripts().Rename(ctx, args[0], args[1])
}
