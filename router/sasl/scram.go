package sasl

import (
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/xdg-go/scram"

	"switchyard/internal/wire"
	"switchyard/lookup"
)

// minIterations is the least that RFC 7677 §4 allows.
const minIterations = 4096

// Base is a SCRAM mechanism's name without -PLUS, and whether it had that.
func Base(mechanism string) (base string, plus bool) { return strings.CutSuffix(mechanism, "-PLUS") }

// hashes are the mechanisms' hash functions.
func hashOf(mechanism string) (scram.HashGeneratorFcn, bool) {
	switch mechanism {
	case SCRAMSHA256:
		return sha256.New, true
	case SCRAMSHA1:
		return sha1.New, true
	}
	return nil, false
}

// ClientFirst is the first message of a client (RFC 5802 §7).
type ClientFirst struct {
	Raw string // as it came

	// Flag is n when the client cannot bind to the TLS connection, y when it
	// could and believes that the server cannot, p when it does: to Binding.
	Flag     byte
	Binding  string
	Authzid  string
	Username string
}

// ParseClientFirst reads a client's first message. It looks at all that decides
// where the exchange goes; the rest is looked at by who proves it. Errors:
// wire.ErrSASL, which never repeats the message.
func ParseClientFirst(message []byte) (ClientFirst, error) {
	bad := func(what string) (ClientFirst, error) {
		return ClientFirst{}, fmt.Errorf("%w: SCRAM: %s", wire.ErrSASL, what)
	}
	c := ClientFirst{Raw: string(message)}
	for _, b := range message {
		if b < ' ' || b == 0x7f {
			return bad("control character")
		}
	}
	flag, rest, found := strings.Cut(c.Raw, ",")
	switch {
	case !found:
		return bad("header is missing")
	case flag == "n", flag == "y":
		c.Flag = flag[0]
	case strings.HasPrefix(flag, "p=") && len(flag) > 2:
		c.Flag, c.Binding = 'p', flag[2:]
	default:
		return bad("malformed header")
	}
	authzid, rest, found := strings.Cut(rest, ",")
	if !found {
		return bad("header does not end")
	}
	var ok bool
	if authzid != "" {
		if authzid, found = strings.CutPrefix(authzid, "a="); !found || authzid == "" {
			return bad("malformed authorisation identity")
		}
		if c.Authzid, ok = unescape(authzid); !ok {
			return bad("malformed authorisation identity")
		}
	}
	username, rest, found := strings.Cut(rest, ",")
	if username, ok = strings.CutPrefix(username, "n="); !ok || !found || username == "" {
		return bad("name is missing") // m= is an extension that nobody knows
	}
	if c.Username, ok = unescape(username); !ok {
		return bad("malformed name")
	}
	nonce, _, _ := strings.Cut(rest, ",")
	if nonce, ok = strings.CutPrefix(nonce, "r="); !ok || nonce == "" {
		return bad("nonce is missing")
	}
	return c, nil
}

// unescape undoes =2C and =3D in a name (RFC 5802 §5.1).
func unescape(name string) (string, bool) {
	var out strings.Builder
	for i := 0; i < len(name); i++ {
		switch {
		case name[i] != '=':
			out.WriteByte(name[i])
		case strings.HasPrefix(name[i:], "=2C"):
			out.WriteByte(',')
			i += 2
		case strings.HasPrefix(name[i:], "=3D"):
			out.WriteByte('=')
			i += 2
		default:
			return "", false
		}
	}
	return out.String(), true
}

// Serve goes through the rest of an exchange as the server, with an account's
// keys, or with invented ones. bound is the data of the binding that the client
// names (flag p); offersPlus says that a binding could have been used on this
// connection: a client that believes otherwise (y) is one whose connection
// somebody has tampered with. Errors: ErrFailed, wire.ErrSASL, next's own. None
// repeats a message.
func Serve(first ClientFirst, keys lookup.Keys, bound *Binding, offersPlus bool, next Next) error {
	newHash, ok := hashOf(keys.Mechanism)
	if !ok {
		return fmt.Errorf("no such mechanism: %q", keys.Mechanism)
	}
	if first.Flag == 'y' && offersPlus {
		return fmt.Errorf("%w: the client was told that the connection cannot be bound", ErrFailed)
	}
	server, err := newHash.NewServer(func(string) (scram.StoredCredentials, error) {
		return scram.StoredCredentials{
			KeyFactors: scram.KeyFactors{Salt: string(keys.Salt), Iters: keys.Iterations},
			StoredKey:  keys.StoredKey, ServerKey: keys.ServerKey,
		}, nil
	})
	if err != nil {
		return err
	}
	conversation := server.NewConversation()
	if first.Flag == 'p' {
		if bound == nil || bound.Name != first.Binding {
			return fmt.Errorf("%w: SCRAM: no such channel binding", wire.ErrSASL)
		}
		conversation = server.NewConversationWithChannelBindingRequired(scram.ChannelBinding{
			Type: scram.ChannelBindingType(bound.Name), Data: bound.Data,
		})
	}
	challenge, err := conversation.Step(first.Raw)
	if err != nil {
		return fmt.Errorf("%w: SCRAM: first message", wire.ErrSASL)
	}
	final, err := next([]byte(challenge))
	if err != nil {
		return err
	}
	proof, err := conversation.Step(string(final))
	switch {
	case err != nil && proof == "":
		return fmt.Errorf("%w: SCRAM: last message", wire.ErrSASL)
	case err != nil || !conversation.Valid():
		return ErrFailed
	}
	// The server's own proof goes as a challenge, since no answer of these
	// protocols can carry it; the client has nothing to say to it.
	end, err := next([]byte(proof))
	if err != nil {
		return err
	}
	if len(end) > 0 {
		return fmt.Errorf("%w: SCRAM: something follows the last message", wire.ErrSASL)
	}
	return nil
}

// Relay is an exchange that goes on on a backend, which alone can judge it.
type Relay struct {
	Mechanism string
	First     []byte // the client's first message
	Next      Next

	// Begun says that the client has heard the backend: the exchange can neither
	// be begun anew nor be gone on with on another node.
	Begun bool
}

// Respond passes a challenge of the backend to the client and returns its
// response.
func (r *Relay) Respond(challenge []byte) ([]byte, error) {
	r.Begun = true
	return r.Next(challenge)
}
