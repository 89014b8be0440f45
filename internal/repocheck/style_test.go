package repocheck_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// privateWords are metaphors that names used before docs/glossary.md: a reader would have to learn what each
// stands for. Singular stands for plural too.
var privateWords = []string{
	"attendant", "bear", "comer", "conceive", "crowd", "desk", "door", "furnish", "guest", "happening",
	"leash", "office", "seat", "tongue",
}

func TestNamesAvoidPrivateWords(t *testing.T) {
	t.Parallel()
	for _, name := range listFiles(t) {
		if !strings.HasSuffix(name, ".go") {
			continue
		}
		if word := privateWord(strings.TrimSuffix(path.Base(name), ".go")); word != "" {
			t.Errorf("%s: the file is named by %q: see docs/glossary.md", name, word)
		}
		for id, where := range declaredIn(t, name) {
			if word := privateWord(id); word != "" {
				t.Errorf("%s: %s is named by %q: see docs/glossary.md", where, id, word)
			}
		}
	}
}

// declaredIn returns the names that a Go file declares at package level, with methods and fields of structs.
// The value is the place of the declaration, as file:line:column.
func declaredIn(t *testing.T, name string) map[string]string {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, filepath.Join(root, name), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return nil
	}
	out := map[string]string{}
	add := func(ids ...*ast.Ident) {
		for _, id := range ids {
			out[id.Name] = strings.TrimPrefix(fset.Position(id.Pos()).String(), root+"/")
		}
	}
	for _, decl := range file.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			add(decl.Name)
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				switch spec := spec.(type) {
				case *ast.ValueSpec:
					add(spec.Names...)
				case *ast.TypeSpec:
					add(spec.Name)
					if structType, ok := spec.Type.(*ast.StructType); ok {
						for _, field := range structType.Fields.List {
							add(field.Names...)
						}
					}
				}
			}
		}
	}
	return out
}

// privateWord returns the first private word in a name, or "".
func privateWord(name string) string {
	for _, word := range wordsOf(name) {
		for _, private := range privateWords {
			if word == private || word == private+"s" {
				return word
			}
		}
	}
	return ""
}

// wordsOf splits a name into its words, in lower case: "newGuestID" into new, guest and id, and "guest_test"
// into guest, "_" and test. Every character that is no letter is a word of its own.
func wordsOf(name string) []string {
	var words []string
	runes, start := []rune(name), 0 // start is where the current word begins
	for i := 1; i <= len(runes); i++ {
		if i < len(runes) && !wordBeginsAt(runes, i) {
			continue
		}
		words = append(words, strings.ToLower(string(runes[start:i])))
		start = i
	}
	return words
}

// wordBeginsAt reports whether runes[i] begins a new word: one of it and its left neighbour is no letter, or
// it is an upper-case letter after a lower-case one ("newG") or before one ("IDs").
func wordBeginsAt(runes []rune, i int) bool {
	left, here := runes[i-1], runes[i]
	if !unicode.IsLetter(left) || !unicode.IsLetter(here) {
		return true
	}
	rightIsLower := i+1 < len(runes) && unicode.IsLower(runes[i+1])
	return unicode.IsUpper(here) && (unicode.IsLower(left) || rightIsLower)
}

// maxColumns is the longest line of code or text, with a tab as tabColumns.
const (
	maxColumns = 110
	tabColumns = 4
)

func TestLinesAreNotTooLong(t *testing.T) {
	t.Parallel()
	for _, name := range listFiles(t) {
		isText := strings.HasSuffix(name, ".go") || strings.HasSuffix(name, ".md")
		if !isText || strings.Contains(name, "testdata/") {
			continue
		}
		for i, line := range bytes.Split([]byte(read(t, name)), []byte("\n")) {
			if n := columns(line); n > maxColumns && !mayBeLong(name, string(line)) {
				t.Errorf("%s:%d: %d columns, more than %d", name, i+1, n, maxColumns)
			}
		}
	}
}

// mayBeLong reports whether a line of the file name cannot be broken: it has a URL in it, or is a row of a
// table or a link in a document, or in code begins with a literal, as the rows of a test's table do.
func mayBeLong(name, line string) bool {
	line = strings.TrimSpace(line)
	if strings.Contains(line, "://") {
		return true
	}
	if strings.HasSuffix(name, ".md") {
		return strings.HasPrefix(line, "|") || strings.HasPrefix(line, "[") || strings.HasPrefix(line, "![")
	}
	return strings.HasPrefix(line, `"`) || strings.HasPrefix(line, "`") || strings.HasPrefix(line, "{")
}

// columns returns the width of a line on the screen.
func columns(line []byte) int {
	return utf8.RuneCount(line) + (tabColumns-1)*bytes.Count(line, []byte("\t"))
}

func TestWordsOfNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"newGuestID": "guest", "guest_test": "guest", "TestADoorIsShut": "door", "seats": "seats",
		"Office": "office",
		"bearer": "", "forbear": "", "indoor": "", "ID": "", "officer": "", "xDesk2": "desk",
	} {
		if got := privateWord(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}
