package conf

import (
	"fmt"
	"os"
	"strings"
)

// Secret names where a secret comes from, and holds it once loaded. It is
// written { file = "path" } or { env = "NAME" }: the configuration itself never
// contains one. However it is printed, it does not show.
type Secret struct {
	File string `toml:"file"`
	Env  string `toml:"env"`

	value string
}

// Value returns the secret. It is never logged.
func (s Secret) Value() string { return s.value }

// IsSet reports whether the configuration names a secret.
func (s Secret) IsSet() bool { return s.File != "" || s.Env != "" }

func (s Secret) String() string {
	if !s.IsSet() {
		return "none"
	}
	return "secret"
}

// GoString keeps %#v from showing the secret.
func (s Secret) GoString() string { return s.String() }

// MarshalText keeps encoders from showing the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// load reads the secret. A file's trailing line end is not part of it.
func (s *Secret) load(resolve func(string) string) error {
	switch {
	case s.File != "" && s.Env != "":
		return fmt.Errorf("comes from a file and from the environment; keep one of file and env")
	case s.File != "":
		b, err := os.ReadFile(resolve(s.File))
		if err != nil {
			return fmt.Errorf("cannot read the secret in %s: %s", s.File, cause(err))
		}
		s.value = strings.TrimRight(string(b), "\r\n")
	case s.Env != "":
		s.value = os.Getenv(s.Env)
	default:
		return nil
	}
	if s.value == "" {
		return fmt.Errorf("the secret is empty; put it into the file or the environment variable named here")
	}
	if strings.ContainsAny(s.value, "\x00\r\n") {
		return fmt.Errorf("the secret has a line end or NUL inside; it must be one line")
	}
	return nil
}
