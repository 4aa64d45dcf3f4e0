package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of /proc/PID/stat: USER_HZ, which is 100 on every Linux that
// Go runs on.
const tick = 10 * time.Millisecond

// stat is what /proc/PID/stat tells.
type stat struct {
	pid, parent int
	cpu         time.Duration // user and system, with children that were waited for
	born        uint64
}

// parseStat reads a line of /proc/PID/stat (proc(5)). The second field is the
// program's name in parentheses and may hold anything, parentheses included.
func parseStat(line []byte) (stat, error) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 1 || end < open {
		return stat{}, errors.New("malformed stat")
	}
	rest := strings.Fields(string(line[end+1:]))
	if len(rest) < 20 {
		return stat{}, errors.New("stat is too short")
	}
	var s stat
	var err error
	if s.pid, err = strconv.Atoi(strings.TrimSpace(string(line[:open]))); err != nil {
		return stat{}, err
	}
	if s.parent, err = strconv.Atoi(rest[1]); err != nil {
		return stat{}, err
	}
	for _, field := range rest[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return stat{}, err
		}
		s.cpu += time.Duration(n) * tick
	}
	s.born, err = strconv.ParseUint(rest[19], 10, 64)
	return s, err
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// processes returns a process and its descendants.
func processes(root int) ([]stat, error) {
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var all []stat
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		s, err := parseStat(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, s)
	}
	return descendants(all, root), nil
}

// descendants picks the process root and all below it.
func descendants(all []stat, root int) []stat {
	below := make(map[int][]stat)
	var out []stat
	for _, s := range all {
		below[s.parent] = append(below[s.parent], s)
		if s.pid == root {
			out = append(out, s)
		}
	}
	for i := 0; i < len(out); i++ {
		out = append(out, below[out[i].pid]...)
	}
	return out
}

// cpuOf sums what a process and its children have used. Children that ended
// are in their parent's account.
func cpuOf(p *process) (time.Duration, error) {
	if p == nil {
		return 0, nil
	}
	family, err := processes(p.pid())
	if err != nil {
		return 0, err
	}
	if len(family) == 0 {
		return 0, fmt.Errorf("ended: %s", p.lastLine())
	}
	var total time.Duration
	for _, s := range family {
		total += s.cpu
	}
	return total, nil
}

// pssOf sums the proportional set size of a process and its children, in bytes.
func pssOf(p *process) (int64, error) {
	family, err := processes(p.pid())
	if err != nil {
		return 0, err
	}
	if len(family) == 0 {
		return 0, fmt.Errorf("ended: %s", p.lastLine())
	}
	var total int64
	for _, s := range family {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", s.pid))
		if err != nil {
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				continue // it has ended
			}
			return 0, err
		}
		n, err := parsePSS(b)
		if err != nil {
			return 0, fmt.Errorf("process %d: %w", s.pid, err)
		}
		total += n
	}
	return total, nil
}

// parsePSS finds the Pss line of /proc/PID/smaps_rollup.
func parsePSS(text []byte) (int64, error) {
	for line := range strings.Lines(string(text)) {
		value, found := strings.CutPrefix(line, "Pss:")
		if !found {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
		return n << 10, err
	}
	return 0, errors.New("no Pss line")
}
