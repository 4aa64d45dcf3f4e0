package imap

import (
	"context"
	"errors"
	"io"
	"strings"

	"switchyard/backend"
	"switchyard/backend/imap/syntax"
	"switchyard/internal/spool"
)

// maxParts bounds the parts of one CATENATE.
const maxParts = 200

// badURLError is the answer to a URL that leads nowhere (RFC 4469 §6).
type badURLError struct{ url string }

func (e *badURLError) Error() string { return "bad url: " + e.url }

// catenate reads the parts of APPEND … CATENATE (RFC 4469) and puts the message
// together in the spool. What a URL names is copied as it is: the message is
// the same bytes that the client would have fetched and sent.
func (s *session) catenate(ctx context.Context, sp *spool.Spool) (backend.Incoming, error) {
	var m backend.Incoming
	start := sp.Size()
	parts := 0
	// The first URL that leads nowhere is remembered until the command is
	// over: literals behind it are on their way.
	var refusal error
	err := s.lex.List(false, func() error {
		word, err := s.lex.Word()
		if err != nil {
			return err
		}
		if err := s.lex.SP(); err != nil {
			return err
		}
		if parts++; parts > maxParts {
			return syntax.Errorf("More than %d parts", maxParts)
		}
		switch word {
		case "TEXT":
			return s.catenateText(sp)
		case "URL":
			url, err := s.lex.AString()
			if err != nil || refusal != nil {
				return err
			}
			if err := s.catenateURL(ctx, sp, url, start); err != nil {
				refusal = err
			}
			return nil
		}
		return syntax.Errorf("A part is TEXT or URL")
	})
	if err == nil {
		err = refusal
	}
	m.Size = sp.Size() - start
	if err == nil && m.Size == 0 {
		err = syntax.Errorf("An empty message is none")
	}
	m.Body = io.NewSectionReader(sp, start, m.Size)
	return m, err
}

func (s *session) catenateText(sp *spool.Spool) error {
	lit, err := s.lex.Literal()
	if err != nil {
		return err
	}
	if lit.Size == 0 {
		if err := s.in.invite(lit); err != nil {
			return err
		}
		return s.lex.NextLine()
	}
	var part backend.Incoming
	return s.takeMessage(sp, lit, &part)
}

// catenateURL copies what a URL names into the spool.
func (s *session) catenateURL(ctx context.Context, sp *spool.Spool, text string, start int64) error {
	bad := &badURLError{url: text}
	u, err := syntax.ParseURL(text)
	// A URL with an authority would have to be this server's and this
	// user's; RFC 4469 §5 asks for relative ones.
	if err != nil || u.Host != "" {
		return bad
	}
	id, validity := backend.GUID{}, uint32(0)
	switch {
	case u.Mailbox != "":
		m, err := s.user.Mailbox(ctx, u.Mailbox)
		if errors.Is(err, backend.ErrNoMailbox) {
			return bad
		}
		if err != nil {
			return err
		}
		id, validity = m.ID, m.UIDValidity
	case s.box != nil:
		id = s.box.id
	default:
		return bad
	}
	if u.UIDValidity != 0 && u.UIDValidity != validity {
		return bad
	}
	err = s.copyPart(ctx, sp, id, &u, sp.Size()-start)
	if errors.Is(err, backend.ErrNoMessage) || errors.Is(err, backend.ErrNoMailbox) {
		return bad
	}
	return err
}

// copyPart copies a message or a part of it; have bytes of the new message are
// there already.
func (s *session) copyPart(ctx context.Context, to io.Writer, mailbox backend.GUID, u *syntax.URL, have int64) error {
	root, err := s.user.Structure(ctx, mailbox, backend.UID(u.UID))
	if err != nil {
		return err
	}
	body, err := s.user.Body(ctx, mailbox, backend.UID(u.UID))
	if err != nil {
		return err
	}
	defer body.Close()
	f := &fetcher{session: s}
	spans, found, err := f.spans(&u.Item, root, body)
	if err != nil {
		return err
	}
	if !found {
		return backend.ErrNoMessage
	}
	var total int64
	for _, span := range spans {
		total += span.Len()
	}
	skip, take := clip(&u.Item, total)
	if have+take > s.srv.o.MaxAppend {
		return backend.ErrTooBig
	}
	for _, span := range spans {
		if n := min(max(span.Len()-skip, 0), take); n > 0 {
			if _, err := io.Copy(to, io.NewSectionReader(body, span.Start+skip, n)); err != nil {
				return err
			}
			take -= n
		}
		skip = max(skip-span.Len(), 0)
	}
	return nil
}

// badURLReply answers a URL that leads nowhere.
func badURLReply(e *badURLError) reply {
	url := strings.Map(func(r rune) rune {
		if r < ' ' || r == '"' || r == '\\' || r == ']' || r >= 0x7f {
			return -1
		}
		return r
	}, e.url)
	return reply{status: "NO", code: `BADURL "` + url + `"`, text: "No such message or part"}
}
