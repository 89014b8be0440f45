package terminal

import (
	"strings"
	"unicode"
)

// Clean makes one line of text from a server safe to print. It drops every character that a terminal could
// obey or a reader could not see: control characters, characters that change the writing direction or have no
// width, and bytes that are not UTF-8. White space, line breaks included, becomes a plain space.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsGraphic(r) || r == unicode.ReplacementChar:
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}

// CleanLines is Clean for text of several lines: it keeps line breaks, except at the end.
func CleanLines(s string) string {
	lines := strings.Split(strings.TrimRight(s, "\r\n"), "\n")
	for i := range lines {
		lines[i] = Clean(strings.TrimRight(lines[i], "\r"))
	}
	return strings.Join(lines, "\n")
}
