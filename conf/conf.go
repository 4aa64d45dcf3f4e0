// Package conf is the configuration of all daemons: one strict TOML schema, so
// that one file can serve a whole machine.
//
// Load refuses what it does not understand: an unknown key, an address that is
// none, a file that is missing, two settings that contradict each other. Each
// problem names the file, the line and the key, and says how to mend it; all
// problems of a file are reported together. Paths are relative to the file's
// own directory.
//
// Only commands import this package. Parts of the system take Options.
package conf

import (
	"fmt"
	"time"
)

// Config is a whole configuration file.
type Config struct {
	Cluster   Cluster   `toml:"cluster"`
	Directory Directory `toml:"directory"`
	Backends  []Backend `toml:"backend"`
	Proxyd    Proxyd    `toml:"proxyd"`
	Backendd  Backendd  `toml:"backendd"`
	Tcpauthd  Tcpauthd  `toml:"tcpauthd"`

	source *source
}

// Duration is a time.Duration written like "90s" or "1h30m".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration such as 90s, 5m or 1h30m", text)
	}
	*d = Duration(v)
	return nil
}

// Or returns the duration, or def when it is zero.
func (d Duration) Or(def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return time.Duration(d)
}

func (d Duration) String() string { return time.Duration(d).String() }
