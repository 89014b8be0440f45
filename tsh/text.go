package tsh

import (
	"strings"
	"unicode"
)

// clean drops from one line of a server's text whatever a terminal could obey or a reader not see: control
// characters, such as turn the writing direction or have no width, and bytes that are no UTF-8. White space
// becomes a plain space.
func clean(s string) string {
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

// cleanLines is clean that keeps line breaks.
func cleanLines(s string) string {
	lines := strings.Split(strings.TrimRight(s, "\r\n"), "\n")
	for i := range lines {
		lines[i] = clean(strings.TrimRight(lines[i], "\r"))
	}
	return strings.Join(lines, "\n")
}
