package web

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// errorPattern is an English text with placeholders, and its translation.
type errorPattern struct {
	re   *regexp.Regexp // one group for each placeholder
	text string         // the translation, with {1}, {2} … for the groups
}

// textPairs makes a table from alternating arguments: a text, its translation, the next text, its
// translation. It panics for a text that is there twice.
func textPairs(texts ...string) map[string]string {
	out := make(map[string]string, len(texts)/2)
	for i := 0; i < len(texts); i += 2 {
		if _, twice := out[texts[i]]; twice {
			panic("web: two translations of " + texts[i])
		}
		out[texts[i]] = texts[i+1]
	}
	return out
}

// compilePatterns returns the texts with placeholders ("*"). The longest come first, because they are the
// most specific.
func compilePatterns(errorTexts map[string]string) []errorPattern {
	longestFirst := func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) }
	var out []errorPattern
	for _, key := range slices.SortedFunc(maps.Keys(errorTexts), longestFirst) {
		if strings.Contains(key, "*") {
			re := "^" + strings.ReplaceAll(regexp.QuoteMeta(key), `\*`, "(.+?)") + "$"
			out = append(out, errorPattern{regexp.MustCompile(re), errorTexts[key]})
		}
	}
	return out
}

// translate returns the translation of the English text of an error, and the language of the result. A text
// that matches a pattern is translated with the variable parts in place, which are translated in the same way
// where possible. A text without a translation stays in English.
func (l locale) translate(english string) (text, tag string) {
	if known, ok := l.errorTexts[english]; ok {
		return known, l.Tag
	}
	for _, pattern := range l.errorPatterns {
		groups := pattern.re.FindStringSubmatch(english)
		if groups == nil {
			continue
		}
		var replacements []string // a placeholder, its text, the next placeholder, its text
		for i, group := range groups[1:] {
			translated, _ := l.translate(group)
			replacements = append(replacements, "{"+string(rune('1'+i))+"}", translated)
		}
		return strings.NewReplacer(replacements...).Replace(pattern.text), l.Tag
	}
	return english, locales[0].Tag
}

// capitalize makes the first letter a capital. Faults begin with a small one, as terminals show them.
func capitalize(s string) string {
	first, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	return string(unicode.ToUpper(first)) + s[n:]
}
