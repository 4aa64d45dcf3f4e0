package sasl

import (
	"encoding/json"
	"fmt"
	"strings"

	"switchyard/internal/wire"
)

// Bearer is a message of OAUTHBEARER or XOAUTH2.
type Bearer struct {
	User  string // whose mail; with OAUTHBEARER it may be empty: the token's own
	Token string
}

// String never shows the token.
func (b Bearer) String() string   { return fmt.Sprintf("token for %q", b.User) }
func (b Bearer) GoString() string { return b.String() }

const kvsep = "\x01"

// ParseOAuthBearer reads a message of OAUTHBEARER (RFC 7628 §3.1):
//
//	n,a=user@example.test,^Ahost=…^Aport=143^Aauth=Bearer token^A^A
//
// Host and port are not looked at, nor are keys that are not known. Errors:
// wire.ErrSASL, which never repeats the message.
func ParseOAuthBearer(message []byte) (Bearer, error) {
	header, rest, found := strings.Cut(string(message), kvsep)
	if !found {
		return badBearer("no key follows the header")
	}
	part := strings.Split(header, ",")
	switch {
	case len(part) != 3 || part[2] != "":
		return badBearer("malformed header")
	case part[0] != "n" && part[0] != "y":
		return badBearer("the connection cannot be bound to") // p= is for mechanisms with -PLUS
	}
	var user string
	if part[1] != "" {
		name, ok := strings.CutPrefix(part[1], "a=")
		if ok {
			user, ok = unescape(name)
		}
		if !ok || user == "" {
			return badBearer("malformed authorisation identity")
		}
	}
	return pairs(user, rest)
}

// ParseXOAuth2 reads a message of XOAUTH2, which Google describes:
//
//	user=user@example.test^Aauth=Bearer token^A^A
//
// Errors: as ParseOAuthBearer's.
func ParseXOAuth2(message []byte) (Bearer, error) {
	first, rest, found := strings.Cut(string(message), kvsep)
	user, ok := strings.CutPrefix(first, "user=")
	if !ok || !found || user == "" {
		return badBearer("user is missing")
	}
	return pairs(user, rest)
}

// pairs reads the keys and values up to the last separator.
func pairs(user, rest string) (Bearer, error) {
	b := Bearer{User: user}
	for {
		pair, after, found := strings.Cut(rest, kvsep)
		switch {
		case !found:
			return badBearer("message does not end")
		case pair == "" && after == "" && b.Token != "":
			return b, nil
		case pair == "":
			return badBearer("token is missing")
		}
		key, value, found := strings.Cut(pair, "=")
		if !found {
			return badBearer("malformed key")
		}
		if strings.EqualFold(key, "auth") {
			scheme, token, _ := strings.Cut(value, " ")
			token = strings.TrimLeft(token, " ")
			if !strings.EqualFold(scheme, "Bearer") || b.Token != "" || !validToken(token) {
				return badBearer("malformed token")
			}
			b.Token = token
		}
		rest = after
	}
}

// validToken holds a token against RFC 6750 §2.1.
func validToken(token string) bool {
	body := strings.TrimRight(token, "=")
	return body != "" && strings.Trim(body, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/") == ""
}

func badBearer(what string) (Bearer, error) {
	return Bearer{}, fmt.Errorf("%w: token: %s", wire.ErrSASL, what)
}

// dummy is the one response to a failure (RFC 7628 §3.2.3).
const dummy = kvsep

// Refuse tells a client that its token is refused, and takes the response that
// says nothing. Both mechanisms end so. Clients of XOAUTH2 send nothing at all
// where OAUTHBEARER's send a separator; either is taken. Errors: next's own.
func (h Hint) Refuse(mechanism string, next Next) error {
	failure := map[string]string{"status": "invalid_token"}
	if mechanism == XOAuth2 {
		failure = map[string]string{"status": "401", "schemes": "bearer"}
	}
	if h.Scope != "" {
		failure["scope"] = h.Scope
	}
	if h.Configuration != "" && mechanism == OAuthBearer {
		failure["openid-configuration"] = h.Configuration
	}
	challenge, err := json.Marshal(failure)
	if err != nil {
		return err
	}
	response, err := next(challenge)
	if err == nil && len(response) > 0 && string(response) != dummy {
		return fmt.Errorf("%w: token: a refusal has one answer", wire.ErrSASL)
	}
	return err
}
