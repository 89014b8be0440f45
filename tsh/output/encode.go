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

// WriteJSON writes v as indented JSON in which every character that cannot be seen is escaped. encoding/json
// does that only below U+0020, so WriteJSON replaces the others in the encoded text, where they occur only
// within strings.
func WriteJSON(w io.Writer, v any) error {
	var raw bytes.Buffer
	enc := json.NewEncoder(&raw)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	escape := func(r rune) string {
		if r > 0xffff { // JSON writes it as a surrogate pair (RFC 8259 section 7)
			high, low := utf16.EncodeRune(r)
			return fmt.Sprintf(`\u%04x\u%04x`, high, low)
		}
		return fmt.Sprintf(`\u%04x`, r)
	}
	_, err := io.WriteString(w, escapeInvisible(raw.String(), escape))
	return err
}

// WriteYAML writes each value as a YAML document in which every character that cannot be seen is escaped. It
// encodes the values, decodes the text into nodes, puts each string with such characters in double quotes,
// where alone they can be escaped, encodes the nodes again, and then replaces the characters.
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

// quoteInvisible puts every scalar in node and the nodes under it that has characters that cannot be seen in
// double quotes.
func quoteInvisible(node *yaml.Node) {
	remove := func(rune) string { return "" }
	if node.Kind == yaml.ScalarNode && escapeInvisible(node.Value, remove) != node.Value {
		node.Style = yaml.DoubleQuotedStyle
	}
	for _, child := range node.Content {
		quoteInvisible(child)
	}
}

// escapeInvisible returns s with escape(r) for every character r that cannot be seen, except line breaks. A
// terminal could obey such a character.
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
