package sieve

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"switchyard/backend"
)

// Scripts are an account's, kept as properties of its mail, so that they go where
// it goes. The bounds of one account:
const (
	MaxScriptSize = 64 << 10
	MaxScripts    = 32
	maxNameLen    = 256 // bytes
)

// The errors of Scripts, each with a code of RFC 5804 §1.3.
var (
	ErrNoScript      = errors.New("no such script")
	ErrScriptExists  = errors.New("the script exists")
	ErrActive        = errors.New("the script is active")
	ErrScriptName    = errors.New("the name is not allowed")
	ErrScriptTooBig  = fmt.Errorf("a script has %d bytes at most", MaxScriptSize)
	ErrTooManyScript = fmt.Errorf("an account has %d scripts at most", MaxScripts)
)

const (
	scriptPrefix   = "sieve/script/"
	activeProperty = "sieve/active"
	allProperties  = "sieve/"
)

// Scripts are the scripts of an account.
type Scripts struct{ user backend.User }

// ScriptsOf returns those of an account.
func ScriptsOf(u backend.User) Scripts { return Scripts{u} }

// Listed is a script by its name.
type Listed struct {
	Name   string
	Active bool
}

// scripts reads everything.
func (s Scripts) read(ctx context.Context) (texts map[string][]byte, active string, err error) {
	texts, err = s.user.Properties(ctx, backend.GUID{}, scriptPrefix)
	if err != nil {
		return nil, "", err
	}
	state, err := s.user.Properties(ctx, backend.GUID{}, activeProperty)
	return texts, string(state[activeProperty]), err
}

// List returns the scripts, by name.
func (s Scripts) List(ctx context.Context) ([]Listed, error) {
	texts, active, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	var out []Listed
	for key := range texts {
		name := strings.TrimPrefix(key, scriptPrefix)
		out = append(out, Listed{name, name == active})
	}
	slices.SortFunc(out, func(a, b Listed) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Get returns a script's text. Errors: ErrNoScript and the store's.
func (s Scripts) Get(ctx context.Context, name string) (string, error) {
	got, err := s.user.Properties(ctx, backend.GUID{}, scriptPrefix+name)
	if err != nil {
		return "", err
	}
	text, ok := got[scriptPrefix+name]
	if !ok {
		return "", ErrNoScript
	}
	return string(text), nil
}

// Active returns the text of the active script; ok is false when there is none.
func (s Scripts) Active(ctx context.Context) (text string, ok bool, err error) {
	state, err := s.user.Properties(ctx, backend.GUID{}, activeProperty)
	if err != nil || len(state[activeProperty]) == 0 {
		return "", false, err
	}
	text, err = s.Get(ctx, string(state[activeProperty]))
	if errors.Is(err, ErrNoScript) {
		return "", false, nil
	}
	return text, err == nil, err
}

// Room reports whether a script of a size can be put. Errors: ErrScriptTooBig,
// ErrTooManyScript, ErrScriptName and the store's.
func (s Scripts) Room(ctx context.Context, name string, size int64) error {
	if !allowedName(name) {
		return ErrScriptName
	}
	if size > MaxScriptSize {
		return ErrScriptTooBig
	}
	texts, _, err := s.read(ctx)
	if err != nil {
		return err
	}
	if _, there := texts[scriptPrefix+name]; !there && len(texts) >= MaxScripts {
		return ErrTooManyScript
	}
	return nil
}

// allowedName follows RFC 5804 §1.6.
func allowedName(name string) bool {
	return name != "" && len(name) <= maxNameLen && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029'
	})
}

// Put keeps a script under a name, which it replaces if it is there. Errors:
// Room's, and *Error for a script that is wrong.
func (s Scripts) Put(ctx context.Context, name, text string) error {
	if err := s.Room(ctx, name, int64(len(text))); err != nil {
		return err
	}
	if _, err := Compile(text); err != nil {
		return err
	}
	return s.user.SetProperties(ctx, backend.GUID{}, map[string][]byte{scriptPrefix + name: []byte(text)})
}

// SetActive makes a script the active one; the empty name makes none active.
// Errors: ErrNoScript and the store's.
func (s Scripts) SetActive(ctx context.Context, name string) error {
	if name == "" {
		return s.user.SetProperties(ctx, backend.GUID{}, map[string][]byte{activeProperty: nil})
	}
	if _, err := s.Get(ctx, name); err != nil {
		return err
	}
	return s.user.SetProperties(ctx, backend.GUID{}, map[string][]byte{activeProperty: []byte(name)})
}

// Delete removes a script. Errors: ErrNoScript, ErrActive and the store's.
func (s Scripts) Delete(ctx context.Context, name string) error {
	texts, active, err := s.read(ctx)
	if err != nil {
		return err
	}
	if _, there := texts[scriptPrefix+name]; !there {
		return ErrNoScript
	}
	if name == active {
		return ErrActive
	}
	return s.user.SetProperties(ctx, backend.GUID{}, map[string][]byte{scriptPrefix + name: nil})
}

// Rename gives a script another name; an active one stays active. Errors:
// ErrNoScript, ErrScriptExists, ErrScriptName and the store's.
func (s Scripts) Rename(ctx context.Context, from, to string) error {
	texts, active, err := s.read(ctx)
	if err != nil {
		return err
	}
	text, there := texts[scriptPrefix+from]
	_, taken := texts[scriptPrefix+to]
	switch {
	case !there:
		return ErrNoScript
	case !allowedName(to):
		return ErrScriptName
	case taken:
		return ErrScriptExists
	}
	change := map[string][]byte{scriptPrefix + from: nil, scriptPrefix + to: text}
	if from == active {
		change[activeProperty] = []byte(to)
	}
	return s.user.SetProperties(ctx, backend.GUID{}, change)
}
