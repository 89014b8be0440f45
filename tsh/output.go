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
	"go.yaml.in/yaml/v3"

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
	_ = c.RegisterFlagCompletionFunc(
		"format",
		cobra.FixedCompletions([]string{"text", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp),
	) // the flag exists
	return &f
}

// write writes v as JSON or YAML, or calls text. Neither JSON nor YAML has a raw character that clean would
// drop.
func (a *app) write(f format, v any, text func(io.Writer) error) error {
	var err error
	switch f {
	case asJSON:
		err = writeJSON(a.Stdout, v)
	case asYAML:
		err = writeYAML(a.Stdout, v)
	default:
		err = text(a.Stdout)
	}
	return fault.Wrap(
		err,
		fault.Internal,
		"",
		"the answer cannot be written",
		"look at where standard output leads",
	)
}

// writeJSON escapes what encoding/json leaves: it escapes control characters below U+0020 only.
func writeJSON(w io.Writer, v any) error {
	var raw bytes.Buffer
	enc := json.NewEncoder(&raw)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := io.WriteString(w, escapeHidden(raw.String(), func(r rune) string {
		if hi, lo := utf16.EncodeRune(r); r > 0xffff {
			return fmt.Sprintf(`\u%04x\u%04x`, hi, lo)
		}
		return fmt.Sprintf(`\u%04x`, r)
	}))
	return err
}

// writeYAML writes each value as a document. Text that hides something is put in double quotes first, where
// it can be escaped.
func writeYAML(w io.Writer, values ...any) error {
	var raw, out bytes.Buffer
	if err := config.EncodeAll(&raw, values...); err != nil {
		return err
	}
	dec, enc := yaml.NewDecoder(&raw), yaml.NewEncoder(&out)
	enc.SetIndent(2)
	for range values {
		var doc yaml.Node
		if err := dec.Decode(&doc); err != nil {
			return err
		}
		quoteHidden(&doc)
		if err := enc.Encode(&doc); err != nil {
			return err
		}
	}
	if err := enc.Close(); err != nil {
		return err
	}
	_, err := io.WriteString(
		w,
		escapeHidden(out.String(), func(r rune) string { return fmt.Sprintf(`\U%08x`, r) }),
	)
	return err
}

func quoteHidden(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && escapeHidden(n.Value, func(rune) string { return "" }) != n.Value {
		n.Style = yaml.DoubleQuotedStyle
	}
	for _, c := range n.Content {
		quoteHidden(c)
	}
}

func escapeHidden(s string, escape func(rune) string) string {
	var b strings.Builder
	for _, r := range s {
		if r == '\n' || unicode.IsGraphic(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(escape(r))
		}
	}
	return b.String()
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
