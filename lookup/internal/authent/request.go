package authent

import (
	"net/netip"
	"strconv"
	"strings"

	"switchyard/lookup"
	"switchyard/lookup/internal/netwin"
)

// noPassword stands for "leave the password as it is".
const noPassword = netwin.NoPassword

// Verb is a command's word.
type Verb string

// The commands of the grammar. XCheck and XSet are ours: check and set with
// the password percent-encoded. Auth is ours too.
const (
	Check   Verb = "check"
	Lookup  Verb = "lookup"
	Set     Verb = "set"
	Delete  Verb = "del"
	Search  Verb = "search"
	Version Verb = "version"
	Help    Verb = "help"
	Quit    Verb = "quit"
	Exit    Verb = "exit"
	Auth    Verb = "auth"
	XCheck  Verb = "xcheck"
	XSet    Verb = "xset"

	// XKeys asks for an account's SCRAM keys, XKeyMechs for the mechanisms that
	// all accounts can use. They are ours.
	XKeys     Verb = "xkeys"
	XKeyMechs Verb = "xkeymechs"

	// Feed and Replicate turn the connection into a stream. They are ours.
	Feed      Verb = "feed"
	Replicate Verb = "replicate"
)

// Request is one command. Which fields count depends on the verb. It is never
// printed whole, since it may hold a password.
type Request struct {
	Verb     Verb
	Name     string            // check, lookup, set, del, xkeys: clean
	Password *string           // check, set; nil for set: leave it
	Client   netip.Addr        // check: where the login comes from; may be invalid
	Labels   map[string]string // set
	Pattern  string            // search
	From     int               // search: matches to leave out
	Max      int               // search: zero means all
	Secret   string            // auth
	Mark     string            // replicate: what is there already; may be empty

	Mechanism string // xkeys: without -PLUS
}

// String shows the verb and the name, and no secret.
func (r Request) String() string { return string(r.Verb) + " " + r.Name }

// GoString shows no secret.
func (r Request) GoString() string { return r.String() }

// Line writes the command without its line end. encoded says that the other
// side knows XCheck and XSet; they are used only where the password needs them.
// Errors: RefusedError for what cannot be carried.
func (r Request) Line(encoded bool) (string, error) {
	b := make([]byte, 0, 128)
	b = append(b, r.Verb...)
	var err error
	switch r.Verb {
	case Version, Help, Quit, Exit, Feed, XKeyMechs:
	case Replicate:
		if r.Mark != "" {
			if _, err = netwin.ParseMark(r.Mark); err == nil {
				b = append(append(b, ' '), r.Mark...)
			}
		}
	case Lookup, Delete:
		b, err = appendName(b, r.Name)
	case XKeys:
		if b, err = appendName(b, r.Name); err == nil && !IsMechanism(r.Mechanism) {
			err = errNoMechanism
		}
		b = append(append(b, ' '), r.Mechanism...)
	case Check:
		b, err = r.appendCheck(b, encoded)
	case Set:
		b, err = r.appendSet(b, encoded)
	case Search:
		b, err = r.appendSearch(b)
	case Auth:
		if err = Carriable("the secret", r.Secret, false); err == nil {
			b = append(append(b, ' '), r.Secret...)
		}
	default:
		err = netwin.Refuse("there is no command %.20q", r.Verb)
	}
	if err == nil && len(b) > netwin.MaxLine {
		err = netwin.Refuse("the command is longer than %d bytes", netwin.MaxLine)
	}
	if err != nil {
		return "", err
	}
	return string(b), nil
}

func (r Request) appendCheck(b []byte, encoded bool) ([]byte, error) {
	if r.Password == nil {
		return nil, netwin.Refuse("check needs a password")
	}
	b, err := r.appendNameAndPassword(b, encoded)
	if err == nil && r.Client.IsValid() {
		b = append(b, ' ')
		b = r.Client.Unmap().WithZone("").AppendTo(b)
	}
	return b, err
}

func (r Request) appendSet(b []byte, encoded bool) ([]byte, error) {
	if err := netwin.CheckLabels(r.Labels); err != nil {
		return nil, err
	}
	var err error
	if r.Password == nil {
		if b, err = appendName(b, r.Name); err == nil {
			b = append(b, ' ')
			b = append(b, noPassword...)
		}
	} else {
		b, err = r.appendNameAndPassword(b, encoded)
	}
	if err != nil {
		return nil, err
	}
	return appendLabels(b, r.Labels), nil
}

// appendLabels writes labels behind what is there.
func appendLabels(b []byte, labels map[string]string) []byte {
	if len(labels) == 0 {
		return b
	}
	return netwin.AppendLabels(append(b, ' '), labels)
}

// appendNameAndPassword writes the password as it is where the old grammar can
// carry it, else percent-encoded behind the verb with an x in front.
func (r Request) appendNameAndPassword(verb []byte, encoded bool) ([]byte, error) {
	password := *r.Password
	if password == noPassword {
		return nil, netwin.Refuse("%s is never a password", noPassword)
	}
	if password == "" {
		return nil, netwin.Refuse("the password is empty")
	}
	plain := Carriable("the password", password, true)
	if plain == nil {
		b, err := appendName(verb, r.Name)
		return append(append(b, ' '), password...), err
	}
	if !encoded {
		return nil, plain
	}
	b, err := appendName(append([]byte{'x'}, verb...), r.Name)
	return appendEncoded(append(b, ' '), password), err
}

func (r Request) appendSearch(b []byte) ([]byte, error) {
	if r.Pattern == "" {
		return nil, netwin.Refuse("the pattern is empty; * finds all")
	}
	if err := Carriable("the pattern", r.Pattern, true); err != nil {
		return nil, err
	}
	if r.From < 0 || r.Max < 0 {
		return nil, netwin.Refuse("from and max are not negative")
	}
	b = append(append(b, ' '), r.Pattern...)
	if r.From > 0 {
		b = strconv.AppendInt(append(b, " -from "...), int64(r.From), 10)
	}
	if r.Max > 0 {
		b = strconv.AppendInt(append(b, " -max "...), int64(r.Max), 10)
	}
	return b, nil
}

func appendName(b []byte, name string) ([]byte, error) {
	if clean, err := lookup.CleanName(name, ""); err != nil || clean != name {
		return nil, netwin.Refuse("a name that no account can have")
	}
	return append(append(b, ' '), name...), nil
}

// Carriable says why the grammar cannot carry an argument. A word has no
// space; what reaches to the end of the line may have some.
func Carriable(what, s string, word bool) error {
	switch {
	case netwin.HasControl(s):
		return netwin.Refuse("%s has a control character, which the protocol cannot carry", what)
	case word && strings.IndexByte(s, ' ') >= 0:
		return netwin.Refuse("%s has a space, which the protocol cannot carry", what)
	case word && strings.IndexByte(s, '"') >= 0:
		return netwin.Refuse("%s has a quote, which the protocol cannot carry", what)
	}
	return nil
}

// ParseRequest reads a command without its line end. Names become clean; one
// that no account can have is an error that is also lookup.ErrAbsent. Errors:
// RefusedError, whose reason shows nothing of the line.
func ParseRequest(line string) (Request, error) {
	if netwin.HasControl(line) {
		return Request{}, netwin.Refuse("control character in the command")
	}
	word, rest, _ := strings.Cut(line, " ")
	r := Request{Verb: Verb(strings.ToLower(word))}
	var err error
	switch r.Verb {
	case Replicate:
		if r.Mark = strings.Trim(rest, " "); r.Mark != "" {
			_, err = netwin.ParseMark(r.Mark)
		}
	case Version, Help, Quit, Exit, Feed, XKeyMechs:
		if strings.Trim(rest, " ") != "" {
			err = netwin.Refuse("%s takes no argument", r.Verb)
		}
	case Lookup, Delete:
		r.Name, err = parseName(strings.Trim(rest, " "))
	case XKeys:
		err = r.parseKeys(rest)
	case Check, XCheck:
		err = r.parseCheck(rest)
	case Set, XSet:
		err = r.parseSet(rest)
	case Search:
		err = r.parseSearch(rest)
	case Auth:
		if r.Secret = rest; rest == "" {
			err = netwin.Refuse("auth needs a secret")
		}
	default:
		return Request{}, netwin.Refuse("unknown command, try help")
	}
	if err != nil {
		return Request{}, err
	}
	return r, nil
}

func parseName(s string) (string, error) {
	if s == "" {
		return "", netwin.Refuse("a user name is missing")
	}
	return lookup.CleanName(s, "")
}

var errNoMechanism = netwin.Refuse("xkeys takes user and mechanism, such as SCRAM-SHA-256")

// parseKeys reads: user mechanism.
func (r *Request) parseKeys(rest string) error {
	name, mechanism, _ := strings.Cut(strings.TrimRight(rest, " "), " ")
	if !IsMechanism(mechanism) {
		return errNoMechanism
	}
	r.Mechanism = mechanism
	var err error
	r.Name, err = parseName(name)
	return err
}

// parsePassword reads a password. decode is for the commands with an x.
func (r *Request) parsePassword(s string, decode bool) error {
	if strings.IndexByte(s, '"') >= 0 {
		return netwin.Refuse("quote in the password")
	}
	if decode {
		var ok bool
		if s, ok = decodePercent(s); !ok {
			return netwin.Refuse("the password is not percent-encoded")
		}
	}
	if s == "" {
		return netwin.Refuse("the password is empty")
	}
	r.Password = &s
	return nil
}

// parseCheck reads: user password [address].
func (r *Request) parseCheck(rest string) error {
	part := strings.Split(strings.TrimRight(rest, " "), " ")
	if len(part) != 2 && len(part) != 3 {
		return netwin.Refuse("check takes user, password and address")
	}
	if len(part) == 3 {
		client, err := netip.ParseAddr(part[2])
		if err != nil {
			return netwin.Refuse("the address is none; a password has no space")
		}
		r.Client = client.Unmap()
	}
	if err := r.parsePassword(part[1], r.Verb == XCheck); err != nil {
		return err
	}
	r.Verb = Check
	var err error
	r.Name, err = parseName(part[0])
	return err
}

// parseSet reads: user password|(NULL) label="value" …
func (r *Request) parseSet(rest string) error {
	name, rest, _ := strings.Cut(rest, " ")
	password, rest, _ := strings.Cut(rest, " ")
	if password == "" {
		return netwin.Refuse(`set takes user, password or %s, label="value"`, noPassword)
	}
	// Encoded, (NULL) would not look like this.
	if password != noPassword {
		if err := r.parsePassword(password, r.Verb == XSet); err != nil {
			return err
		}
		if *r.Password == noPassword {
			return netwin.Refuse("%s is never a password", noPassword)
		}
	}
	r.Verb = Set
	var err error
	if r.Labels, err = netwin.ParseLabels(rest); err != nil {
		return err
	}
	r.Name, err = parseName(name)
	return err
}

// parseSearch reads: pattern [-from n] [-max m].
func (r *Request) parseSearch(rest string) error {
	// Other spaces than this one are characters like any.
	part := strings.FieldsFunc(rest, func(r rune) bool { return r == ' ' })
	if len(part)%2 != 1 || len(part) > 5 {
		return netwin.Refuse("search takes a pattern, -from n, -max m")
	}
	r.Pattern = part[0]
	if strings.IndexByte(r.Pattern, '"') >= 0 {
		return netwin.Refuse("quote in the pattern")
	}
	for i := 1; i < len(part); i += 2 {
		n, err := strconv.ParseUint(part[i+1], 10, 31)
		if err != nil {
			return netwin.Refuse("-from and -max take a number")
		}
		switch part[i] {
		case "-from":
			r.From = int(n)
		case "-max":
			r.Max = int(n)
		default:
			return netwin.Refuse("search takes a pattern, -from n, -max m")
		}
	}
	return nil
}
