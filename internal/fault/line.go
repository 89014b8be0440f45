package fault

import "strings"

// SplitLine takes apart what a peer said where its protocol has room for one text alone: "what happened (what
// to do)". Brackets within the brackets belong to them. Without any at the end, there is no remedy.
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
