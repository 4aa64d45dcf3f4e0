package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// bar shows how far a transfer is: a bar on a terminal, a line every few
// seconds elsewhere.
type bar struct {
	out      io.Writer
	what     string
	size     int64 // bytes altogether; zero: not known
	lines    int64 // altogether; zero: not known
	terminal bool
	start    time.Time
	shown    time.Time
	now      func() time.Time

	doneLines, doneBytes int64
}

// How often the bar is drawn, and how often a line is written elsewhere.
const (
	barEvery  = 200 * time.Millisecond
	lineEvery = 5 * time.Second
	barWidth  = 30
)

func newBar(out *os.File, what string, size int64) *bar {
	info, err := out.Stat()
	return &bar{
		out: out, what: what, size: size, now: time.Now, start: time.Now(), shown: time.Now(),
		terminal: err == nil && info.Mode()&os.ModeCharDevice != 0,
	}
}

// update is told the lines and the bytes so far.
func (b *bar) update(lines, bytes int64) {
	b.doneLines, b.doneBytes = max(b.doneLines, lines), max(b.doneBytes, bytes)
	every := lineEvery
	if b.terminal {
		every = barEvery
	}
	if now := b.now(); now.Sub(b.shown) >= every {
		b.shown = now
		b.draw()
	}
}

// draw writes what there is to say.
func (b *bar) draw() {
	text := b.text()
	if b.terminal {
		fmt.Fprintf(b.out, "\r%s\x1b[K", text)
	} else {
		fmt.Fprintln(b.out, text)
	}
}

func (b *bar) text() string {
	took := b.now().Sub(b.start)
	rate := float64(b.doneLines) / max(took.Seconds(), 1e-3)
	var part float64
	switch {
	case b.size > 0:
		part = min(1, float64(b.doneBytes)/float64(b.size))
	case b.lines > 0:
		part = min(1, float64(b.doneLines)/float64(b.lines))
	}
	if part == 0 {
		return fmt.Sprintf("%s: %d users, %.0f a second", b.what, b.doneLines, rate)
	}
	left := time.Duration(float64(took) * (1 - part) / part).Round(time.Second)
	text := fmt.Sprintf("%3.0f%%  %d users, %.0f a second, %v left", 100*part, b.doneLines, rate, left)
	if !b.terminal {
		return b.what + ": " + strings.TrimSpace(text)
	}
	full := int(part * barWidth)
	return fmt.Sprintf("%s [%s%s] %s", b.what, strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), text)
}

// finish leaves the terminal's line.
func (b *bar) finish() {
	if b.terminal && b.doneLines > 0 {
		b.draw()
		fmt.Fprintln(b.out)
	}
}
