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

// WriteTable writes a line of headings and then one line for each row, with aligned columns. Every row must
// have as many cells as there are headings. Cells are cleaned (see terminal.Clean), and an empty one is shown
// as "-"; the cells in rows are changed so too.
func WriteTable(w io.Writer, headings []string, rows [][]string) error {
	lines := append([][]string{headings}, rows...)
	width := make([]int, len(headings)) // of each column, in characters
	for _, cells := range lines {
		for column, cell := range cells {
			cell = terminal.Clean(cell)
			if cell == "" {
				cell = "-"
			}
			cells[column] = cell
			width[column] = max(width[column], utf8.RuneCountInString(cell))
		}
	}
	for _, cells := range lines {
		var line strings.Builder
		for column, cell := range cells {
			line.WriteString(cell)
			if isLast := column == len(cells)-1; !isLast {
				line.WriteString(strings.Repeat(" ", width[column]-utf8.RuneCountInString(cell)+2))
			}
		}
		if _, err := fmt.Fprintln(w, line.String()); err != nil {
			return err
		}
	}
	return nil
}

// WritePairs writes pairs of a name and a value, one a line as "name: value", with the values aligned and
// cleaned (see terminal.Clean). It leaves out a pair whose value is empty.
func WritePairs(w io.Writer, pairs ...[2]string) error {
	width := 0
	for _, pair := range pairs {
		width = max(width, len(pair[0]))
	}
	for _, pair := range pairs {
		name, value := pair[0], terminal.Clean(pair[1])
		if pair[1] == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%-*s  %s\n", width+len(":"), name+":", value); err != nil {
			return err
		}
	}
	return nil
}
