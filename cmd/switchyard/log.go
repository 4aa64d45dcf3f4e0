package main

import (
	"bufio"
	"encoding/json"
	"os"
	"slices"
)

// logLine is what the demo wants from a daemon's log line.
type logLine struct {
	Msg      string   `json:"msg"`
	Session  string   `json:"session"`
	Protocol string   `json:"protocol"`
	User     string   `json:"user"`
	Node     string   `json:"node"`
	To       []string `json:"to"`
}

// readLog reads the lines that are JSON; a daemon that dies may write others.
func readLog(path string) ([]logLine, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []logLine
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l logLine
		if json.Unmarshal(lines.Bytes(), &l) == nil {
			out = append(out, l)
		}
	}
	return out, lines.Err()
}

// sessions finds the log line of each hop: a session's end in a proxy's log, a
// delivery in a backend's. A line answers for one hop only.
type sessions struct {
	lines []logLine
}

func (s *sessions) take(h hop) logLine {
	i := slices.IndexFunc(s.lines, func(l logLine) bool {
		if h.protocol == "smtp" {
			return l.Msg == "message" && l.Protocol == "lmtp" && slices.Contains(l.To, h.account)
		}
		return l.Msg == "session" && l.Protocol == h.protocol && l.User == h.account && l.Node != ""
	})
	if i < 0 {
		return logLine{}
	}
	found := s.lines[i]
	if found.Msg == "message" {
		// A delivery to several recipients is one line: it answers once for
		// each.
		s.lines[i].To = slices.DeleteFunc(slices.Clone(found.To), func(to string) bool { return to == h.account })
	} else {
		s.lines[i].Msg = ""
	}
	return found
}
