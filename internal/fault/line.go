package fault

import "strings"

// SplitLine splits a text of the form "message (remedy)", which peers send if a protocol has room for only
// one text. The remedy is what the last pair of parentheses encloses, up to the end of the text; it may have
// further pairs inside. If the text does not end with such a pair, all of it is the message.
func SplitLine(line string) (msg, remedy string) {
	if !strings.HasSuffix(line, ")") {
		return line, ""
	}
	depth := 0 // how many parentheses are open, read from the end
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
