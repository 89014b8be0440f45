package fault

import "strings"

// SplitLine splits a text of the form "message (remedy)". Peers send it where a protocol has room for one
// text alone. Parentheses inside the remedy must be balanced. Without parentheses at the end there is no
// remedy.
func SplitLine(line string) (msg, remedy string) {
	if !strings.HasSuffix(line, ")") {
		return line, ""
	}
	depth := 0
	for i := len(line) - 1; i >= 0; i-- {
		switch line[i] {
		case ')':
			depth++
		case '(':
			depth--
		}
		if depth > 0 {
			continue
		}
		if msg, ok := strings.CutSuffix(line[:i], " "); ok {
			return msg, line[i+1 : len(line)-1]
		}
		return line, ""
	}
	return line, ""
}
