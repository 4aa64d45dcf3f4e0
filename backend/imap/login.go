package imap

import (
	"bytes"
	"context"
	"errors"
	"time"

	"switchyard/backend/access"
	"switchyard/backend/imap/syntax"
	"switchyard/internal/origin"
	"switchyard/internal/probe"
	"switchyard/internal/tlsconf"
	"switchyard/internal/wire"
)

// greet begins implicit TLS and says hello.
func (s *session) greet(ctx context.Context) error {
	if s.srv.o.Mode == tlsconf.Implicit {
		if err := s.conn.ServerTLS(ctx, s.srv.o.TLS); err != nil {
			return &ending{reason: "TLS handshake failed", err: err}
		}
	}
	text := "Switchyard is ready"
	if s.srv.o.Hostname != "" {
		text = s.srv.o.Hostname + " " + text
	}
	s.untagged("OK [CAPABILITY " + s.capabilities() + "] " + text)
	return s.flush()
}

// mayLogin reports whether a password may cross this connection.
func (s *session) mayLogin() bool { return !s.srv.o.RequireTLS || s.conn.TLS() != nil }

// trusted reports whether the peer is a proxy of ours.
func (s *session) trusted() bool { return s.srv.gate.Trusted(s.peer.Addr(), s.conn.TLS() != nil) }

// capabilities lists what the session can do now.
func (s *session) capabilities() string {
	caps := "IMAP4rev1 IMAP4rev2 SASL-IR LITERAL+ ID ENABLE IDLE"
	if s.user == nil {
		if s.srv.o.Mode == tlsconf.StartTLS && s.conn.TLS() == nil {
			caps += " STARTTLS"
		}
		if !s.mayLogin() {
			return caps + " LOGINDISABLED"
		}
		caps += " AUTH=PLAIN AUTH=LOGIN"
		if s.trusted() {
			caps += " " + probe.Capability
		}
		return caps
	}
	if !s.srv.o.NoCompress && s.conn.deflated == nil {
		caps += " COMPRESS=DEFLATE"
	}
	return caps + " NAMESPACE CHILDREN UNSELECT UIDPLUS MOVE MULTIAPPEND BINARY CATENATE ESEARCH SEARCHRES WITHIN" +
		" LIST-EXTENDED LIST-STATUS SPECIAL-USE CREATE-SPECIAL-USE STATUS=SIZE CONDSTORE QRESYNC OBJECTID SAVEDATE" +
		" SORT SORT=DISPLAY ESORT THREAD=ORDEREDSUBJECT THREAD=REFERENCES I18NLEVEL=1 PARTIAL PREVIEW UIDONLY REPLACE" +
		" METADATA " + quotaCapabilities +
		" UTF8=ACCEPT APPENDLIMIT=" + itoa(s.srv.o.MaxAppend)
}

func (s *session) capability(context.Context) (reply, error) {
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	s.untagged("CAPABILITY " + s.capabilities())
	return ok("Done")
}

func (s *session) noop(context.Context) (reply, error) {
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	return ok("Done")
}

func (s *session) logout(context.Context) (reply, error) {
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	s.closeBox()
	s.untagged("BYE Logging out")
	s.then = func(context.Context) error { return errLogout }
	return ok("Goodbye")
}

// maxIDPairs is RFC 2971's own bound.
const maxIDPairs = 30

// identify answers ID (RFC 2971). The first ID before login tells a trusted
// proxy's session who the client is; every other is only read.
func (s *session) identify(context.Context) (reply, error) {
	if err := s.lex.SP(); err != nil {
		return reply{}, err
	}
	pairs, err := s.idPairs()
	if err != nil {
		return reply{}, err
	}
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	first := !s.idSeen && s.user == nil
	s.idSeen = true
	if first && s.trusted() {
		o, found, err := origin.FromID(pairs)
		if err != nil {
			return no("CLIENTBUG", "The client's identity is malformed")
		}
		if found {
			s.believe(o)
		}
	}
	s.untagged(`ID ("name" "Switchyard")`)
	return ok("Done")
}

func (s *session) idPairs() ([][2]string, error) {
	var pairs [][2]string
	if s.lex.Peek() != '(' {
		if _, given, err := s.lex.NString(); err != nil || given {
			return nil, syntax.Errorf("ID takes a list or NIL")
		}
		return nil, nil
	}
	err := s.lex.List(true, func() error {
		key, err := s.lex.String()
		if err != nil {
			return err
		}
		if err := s.lex.SP(); err != nil {
			return err
		}
		value, _, err := s.lex.NString()
		if err != nil {
			return err
		}
		if len(pairs) == maxIDPairs || len(key) > 30 || len(value) > 1024 {
			return syntax.Errorf("An ID of more than %d pairs, or of longer ones than RFC 2971 allows", maxIDPairs)
		}
		pairs = append(pairs, [2]string{key, value})
		return nil
	})
	return pairs, err
}

// believe takes a trusted proxy's word for who the client is.
func (s *session) believe(o origin.Origin) {
	if o.Session != "" {
		s.id = o.Session
	}
	if o.Client.IsValid() {
		s.client = o.Client
	}
	s.hint = o.Generation
}

func (s *session) startTLS(context.Context) (reply, error) {
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	if s.srv.o.Mode != tlsconf.StartTLS || s.conn.TLS() != nil {
		return reply{}, syntax.Errorf("STARTTLS is not possible here")
	}
	if s.conn.Buffered() > 0 {
		return reply{}, &ending{reason: "bytes behind STARTTLS", bye: "Bytes behind STARTTLS", err: wire.ErrBytesBehindStartTLS}
	}
	s.then = func(ctx context.Context) error {
		if err := s.conn.ServerTLS(ctx, s.srv.o.TLS); err != nil {
			return &ending{reason: "TLS handshake failed", err: err}
		}
		s.idSeen = false // what was said in clear does not count
		return nil
	}
	return ok("Begin TLS now")
}

func (s *session) login(ctx context.Context) (reply, error) {
	if !s.mayLogin() {
		return no("PRIVACYREQUIRED", "Passwords are taken over TLS only")
	}
	if err := s.lex.SP(); err != nil {
		return reply{}, err
	}
	name, err := s.lex.AString()
	if err != nil {
		return reply{}, err
	}
	if err := s.lex.SP(); err != nil {
		return reply{}, err
	}
	password, err := s.lex.AString()
	if err != nil {
		return reply{}, err
	}
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	return s.tryLogin(ctx, wire.Plain{Authcid: name, Password: password})
}

// authenticate serves AUTHENTICATE PLAIN and LOGIN, with or without an initial
// response (RFC 9051 §6.2.2, RFC 4959).
func (s *session) authenticate(ctx context.Context) (reply, error) {
	if err := s.lex.SP(); err != nil {
		return reply{}, err
	}
	mechanism, err := s.lex.Word()
	if err != nil {
		return reply{}, err
	}
	var initial []byte
	if s.lex.Is(' ') {
		text, err := s.lex.Base64()
		if err != nil {
			return reply{}, err
		}
		initial = []byte(text)
	}
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	if mechanism != "PLAIN" && mechanism != "LOGIN" {
		return no("CANNOT", "Unknown mechanism")
	}
	if !s.mayLogin() {
		return no("PRIVACYREQUIRED", "Passwords are taken over TLS only")
	}
	var p wire.Plain
	if mechanism == "PLAIN" {
		p, err = s.saslPlain(initial)
	} else {
		p, err = s.saslLogin(initial)
	}
	if errors.Is(err, wire.ErrSASL) {
		return reply{}, syntax.Errorf("The SASL message is malformed")
	}
	if err != nil {
		return reply{}, err
	}
	return s.tryLogin(ctx, p)
}

func (s *session) saslPlain(initial []byte) (wire.Plain, error) {
	message, err := s.saslAnswer(initial, "")
	if err != nil {
		return wire.Plain{}, err
	}
	return wire.ParsePlain(message)
}

// saslLogin serves the LOGIN mechanism: the name, then the password.
func (s *session) saslLogin(initial []byte) (wire.Plain, error) {
	name, err := s.saslAnswer(initial, "VXNlcm5hbWU6") // Username:
	if err != nil {
		return wire.Plain{}, err
	}
	password, err := s.saslAnswer(nil, "UGFzc3dvcmQ6") // Password:
	if err != nil {
		return wire.Plain{}, err
	}
	if bytes.IndexByte(name, 0) >= 0 || bytes.IndexByte(password, 0) >= 0 {
		return wire.Plain{}, wire.ErrSASL
	}
	return wire.Plain{Authcid: string(name), Password: string(password)}, nil
}

// saslAnswer returns the initial response, or asks for one.
func (s *session) saslAnswer(initial []byte, challenge string) ([]byte, error) {
	if initial != nil {
		return wire.DecodeSASL(initial)
	}
	s.out.Raw("+ ").Raw(challenge).End()
	if err := s.flush(); err != nil {
		return nil, err
	}
	line, err := s.in.Line()
	if err != nil {
		return nil, err
	}
	if string(line) == "*" {
		return nil, syntax.Errorf("Authentication cancelled")
	}
	return wire.DecodeSASL(line)
}

// tryLogin asks the gate.
func (s *session) tryLogin(ctx context.Context, p wire.Plain) (reply, error) {
	granted, err := s.srv.gate.Login(ctx, access.Login{
		Authzid:    p.Authzid,
		Authcid:    p.Authcid,
		Password:   p.Password,
		Peer:       s.peer.Addr(),
		Client:     s.client.Addr(),
		TLS:        s.conn.TLS() != nil,
		Generation: s.hint,
		Protocol:   "imap",
	})
	if err != nil {
		if answer := (*access.ProbeError)(nil); errors.As(err, &answer) {
			s.probed = true
			return reply{status: "NO", code: answer.Code(), text: answer.Text}, nil
		}
		s.failed++
		return s.refuseLogin(err), nil
	}
	s.user, s.account, s.proxied = granted.User, granted.Account.Name, granted.Proxied
	s.bad, s.failed = 0, 0
	s.conn.SetDeadline(time.Time{})
	return okCode("CAPABILITY "+s.capabilities(), "Logged in"), nil
}

// enable serves ENABLE (RFC 5161). What is unknown is passed over.
func (s *session) enable(context.Context) (reply, error) {
	enabled := ""
	for first := true; first || s.lex.Peek() == ' '; first = false {
		if err := s.lex.SP(); err != nil {
			return reply{}, err
		}
		word, err := s.lex.Word()
		if err != nil {
			return reply{}, err
		}
		switch word {
		case "IMAP4REV2":
			s.rev2, s.out.UTF8 = true, true
			enabled += " IMAP4rev2"
		case "UTF8=ACCEPT":
			s.out.UTF8 = true
			enabled += " UTF8=ACCEPT"
		case "CONDSTORE":
			s.condstore = true
			enabled += " CONDSTORE"
		case "QRESYNC": // RFC 7162 §3.2.3: CONDSTORE comes with it
			s.condstore, s.qresync = true, true
			enabled += " QRESYNC"
		case "UIDONLY":
			s.uidOnly = true
			enabled += " UIDONLY"
		}
	}
	if err := s.lex.End(); err != nil {
		return reply{}, err
	}
	s.untagged("ENABLED" + enabled)
	return ok("Done")
}
