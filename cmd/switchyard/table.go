package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// table prints rows under a header, in columns as wide as they need to be.
type table struct {
	rows [][]string
}

func newTable(header ...string) *table { return &table{rows: [][]string{header}} }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) print(w io.Writer) {
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for n, row := range t.rows {
		t.line(w, row, widths)
		if n == 0 {
			var rule []string
			for _, width := range widths {
				rule = append(rule, strings.Repeat("─", width))
			}
			t.line(w, rule, widths)
		}
	}
}

func (t *table) line(w io.Writer, cells []string, widths []int) {
	var b strings.Builder
	for i, cell := range cells {
		b.WriteString(cell)
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
	}
	fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
}
