package tsh

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/fault"
)

// format is how an answer is written.
type format string

const (
	asText format = "text"
	asJSON format = "json"
	asYAML format = "yaml"
)

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "FORMAT" }

func (f *format) Set(s string) error {
	switch format(s) {
	case asText, asJSON, asYAML:
		*f = format(s)
		return nil
	}
	return fmt.Errorf("choose text, json or yaml")
}

// formatFlag adds --format.
func formatFlag(c *cobra.Command) *format {
	f := asText
	c.Flags().Var(&f, "format", "text, json or yaml")
	_ = c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"text", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	return &f
}

// write writes v as JSON or YAML, or calls text. YAML escapes what a terminal could obey; so does writeJSON.
func (a *app) write(f format, v any, text func(io.Writer) error) error {
	var err error
	switch f {
	case asJSON:
		err = writeJSON(a.Stdout, v)
	case asYAML:
		err = config.Encode(a.Stdout, v)
	default:
		err = text(a.Stdout)
	}
	return fault.Wrap(err, fault.Internal, "", "the answer cannot be written", "look at where standard output leads")
}

// writeJSON leaves no character raw that clean would drop: encoding/json escapes those below U+0020 only.
func writeJSON(w io.Writer, v any) error {
	var raw bytes.Buffer
	enc := json.NewEncoder(&raw)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	var b strings.Builder
	for _, r := range raw.String() {
		switch {
		case r == '\n' || unicode.IsGraphic(r):
			b.WriteRune(r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// table writes rows under a heading, columns aligned and cleaned.
func table(w io.Writer, heading []string, rows [][]string) error {
	all := append([][]string{heading}, rows...)
	width := make([]int, len(heading))
	for r, row := range all {
		for i, cell := range row {
			if cell = clean(cell); cell == "" {
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

// pairs writes names and values, one a line, aligned.
func pairs(w io.Writer, list ...[2]string) error {
	width := 0
	for _, p := range list {
		width = max(width, len(p[0]))
	}
	for _, p := range list {
		if p[1] == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%-*s  %s\n", width+1, p[0]+":", clean(p[1])); err != nil {
			return err
		}
	}
	return nil
}

func join[T ~string](list []T) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = string(s)
	}
	return strings.Join(out, ", ")
}
