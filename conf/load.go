package conf

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Problem is one thing wrong with a configuration.
type Problem struct {
	File string
	Line int    // zero: the file as a whole
	Key  string // dotted path; "" when none
	Text string // what is wrong and how to mend it
}

func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Text)
	return b.String()
}

// Daemon is a daemon that a configuration is checked for.
type Daemon int

// The daemons. Each needs its own part of the file; what others need is only
// checked for being well-formed.
const (
	ProxydDaemon Daemon = iota
	BackenddDaemon
	TcpauthdDaemon
)

// Load reads the file, checks it for one daemon, and loads the secrets that
// this daemon needs. The error joins every Problem found.
func Load(path string, daemon Daemon) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, &Problem{File: path, Text: "cannot read the configuration: " + cause(err)}
	}
	return parse(path, data, daemon)
}

func parse(path string, data []byte, daemon Daemon) (*Config, error) {
	var c Config
	decoder := toml.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		return nil, decodeProblems(path, data, err)
	}
	c.source = &source{path: path, lines: keyLines(data)}
	k := &checker{c: &c, s: c.source}
	k.check(daemon)
	if len(k.problems) > 0 {
		return nil, errors.Join(k.problems...)
	}
	return &c, nil
}

// Path makes a path of the configuration absolute to the file's directory.
func (c *Config) Path(p string) string { return c.source.resolve(p) }

// source knows where in which file each key stands.
type source struct {
	path  string
	lines map[string]int
}

// resolve makes a path relative to the file's directory.
func (s *source) resolve(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(filepath.Dir(s.path), p)
}

// has reports whether the file sets a key, or a part of it if it is a table.
func (s *source) has(key string) bool {
	for k := range s.lines {
		if k == key || strings.HasPrefix(k, key+".") {
			return true
		}
	}
	return false
}

// line finds the line of a key, or of the nearest table above it.
func (s *source) line(key string) int {
	for key != "" {
		if n, ok := s.lines[key]; ok {
			return n
		}
		key = parent(key)
	}
	return 0
}

// parent takes the last step off a dotted path with indices.
func parent(key string) string {
	if strings.HasSuffix(key, "]") {
		return key[:strings.LastIndexByte(key, '[')]
	}
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		return key[:i]
	}
	return ""
}

// decodeProblems turns the decoder's errors into Problems.
func decodeProblems(path string, data []byte, err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		var problems []error
		for _, e := range strict.Errors {
			row, _ := e.Position()
			key := strings.Join(e.Key(), ".")
			text := "unknown key"
			if near := nearestKey(e.Key()); near != "" {
				text += fmt.Sprintf("; did you mean %s?", near)
			}
			problems = append(problems, &Problem{File: path, Line: row, Key: key, Text: text})
		}
		return errors.Join(problems...)
	}
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		row, _ := decode.Position()
		return &Problem{File: path, Line: row, Key: strings.Join(decode.Key(), "."), Text: decodeText(decode.Error())}
	}
	return &Problem{File: path, Text: err.Error()}
}

// decodeText says what the decoder said, in the words of the file rather than
// of the program.
func decodeText(text string) string {
	text = strings.TrimPrefix(text, "toml: ")
	var got, field, want string
	if n, _ := fmt.Sscanf(text, "cannot decode TOML %s into struct field %s of type %s", &got, &field, &want); n != 3 {
		return text
	}
	switch want {
	case "string":
		want = "a string in quotes"
	case "[]string":
		want = `a list of strings, such as ["a", "b"]`
	case "bool":
		want = "true or false"
	case "int", "int64":
		want = "a whole number"
	default:
		want = "a table"
	}
	return fmt.Sprintf("is a %s; write %s", got, want)
}

// cause takes the path out of a file error: the Problem names it already.
func cause(err error) string {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}
