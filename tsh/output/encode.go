package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"

	"go.yaml.in/yaml/v3"

	"github.com/threshold-access/threshold/internal/config"
)

// WriteJSON writes v as indented JSON. encoding/json escapes control characters below U+0020 only, so
// WriteJSON escapes the other characters that cannot be seen.
func WriteJSON(w io.Writer, v any) error {
	var raw bytes.Buffer
	enc := json.NewEncoder(&raw)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := io.WriteString(w, escapeInvisible(raw.String(), func(r rune) string {
		if hi, lo := utf16.EncodeRune(r); r > 0xffff {
			return fmt.Sprintf(`\u%04x\u%04x`, hi, lo)
		}
		return fmt.Sprintf(`\u%04x`, r)
	}))
	return err
}

// WriteYAML writes each value as a YAML document. A string with invisible characters is written in double
// quotes, because only there can they be escaped.
func WriteYAML(w io.Writer, values ...any) error {
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
		quoteInvisible(&doc)
		if err := enc.Encode(&doc); err != nil {
			return err
		}
	}
	if err := enc.Close(); err != nil {
		return err
	}
	escape := func(r rune) string { return fmt.Sprintf(`\U%08x`, r) }
	_, err := io.WriteString(w, escapeInvisible(out.String(), escape))
	return err
}

// quoteInvisible puts every scalar with invisible characters in double quotes.
func quoteInvisible(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && escapeInvisible(n.Value, func(rune) string { return "" }) != n.Value {
		n.Style = yaml.DoubleQuotedStyle
	}
	for _, c := range n.Content {
		quoteInvisible(c)
	}
}

// escapeInvisible replaces every character that cannot be seen, except line breaks.
func escapeInvisible(s string, escape func(rune) string) string {
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
