package fault

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what a fault may carry, in bytes. A peer may be hostile, and a terminal or a page shows its text.
const (
	maxArgBytes     = 1 << 10
	maxMessageBytes = 16 << 10 // room for all that is wrong with a large configuration
	maxRemedyBytes  = 2 << 10
	maxNameBytes    = 64 // names: of a code, a kind, an operation, an argument; an id
	maxArgs         = 16
)

// clean returns s as at most limit bytes of one line. A question mark replaces each character that a terminal
// could obey or a reader could not see: control characters, characters that change the writing direction or
// have no width, and bytes that are not UTF-8. White space becomes a plain space.
func clean(s string, limit int) string {
	return cut(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsGraphic(r) || r == utf8.RuneError:
			return '?'
		}
		return r
	}, cut(s, limit)), limit)
}

// cleanLines is clean for text of several lines: it keeps line breaks.
func cleanLines(s string, limit int) string {
	lines := strings.Split(cut(s, limit), "\n")
	for i := range lines {
		lines[i] = clean(strings.TrimSuffix(lines[i], "\r"), limit)
	}
	return cut(strings.Join(lines, "\n"), limit)
}

// cut shortens s to at most limit bytes, between two characters. An ellipsis is in place of what is missing.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	const ellipsis = "…"
	end := limit - len(ellipsis)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + ellipsis
}

// isName reports whether s can be the name of a code, a kind or an argument.
func isName(s string) bool {
	if s == "" || len(s) > maxNameBytes {
		return false
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			return false
		}
	}
	return true
}
