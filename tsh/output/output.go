// Package output answers: how is a result written, for people and for programs?
//
// It writes JSON, YAML, aligned tables and lists of names and values. Whatever a server put into a value, the
// output contains no character that a terminal would obey: JSON and YAML escape such characters, tables drop
// them. The commands of tsh call it.
package output

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/threshold-access/threshold/tsh/terminal"
)

// Format is how a result is written. It implements the flag interface of pflag.
type Format string

// The formats. Text is for people and may change; JSON and YAML only ever gain fields.
const (
	Text Format = "text"
	JSON Format = "json"
	YAML Format = "yaml"
)

// Formats has every format.
var Formats = []string{string(Text), string(JSON), string(YAML)}

func (f *Format) String() string { return string(*f) }

// Type is the placeholder for the value in help texts.
func (f *Format) Type() string { return "FORMAT" }

// Set parses a flag's value.
func (f *Format) Set(s string) error {
	switch Format(s) {
	case Text, JSON, YAML:
		*f = Format(s)
		return nil
	}
	return fmt.Errorf("choose text, json or yaml")
}

// WriteTable writes a line of headings and then one line for each row, with aligned columns. Every row has as
// many cells as there are headings. Cells are cleaned; an empty one is shown as "-".
func WriteTable(w io.Writer, headings []string, rows [][]string) error {
	all := append([][]string{headings}, rows...)
	width := make([]int, len(headings))
	for r, row := range all {
		for i, cell := range row {
			if cell = terminal.Clean(cell); cell == "" {
				cell = "-"
			}
			all[r][i] = cell
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range all {
		var b strings.Builder
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		if _, err := fmt.Fprintln(w, b.String()); err != nil {
			return err
		}
	}
	return nil
}

// WritePairs writes names and values, one pair a line, with the values aligned and cleaned. It leaves out a
// pair whose value is empty.
func WritePairs(w io.Writer, list ...[2]string) error {
	width := 0
	for _, p := range list {
		width = max(width, len(p[0]))
	}
	for _, p := range list {
		if p[1] == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%-*s  %s\n", width+1, p[0]+":", terminal.Clean(p[1])); err != nil {
			return err
		}
	}
	return nil
}
