package repocheck_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"slices"
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

// declaredIn returns the names that a file declares at package level, methods and fields of structs included,
// with the place of each.
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
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			add(d.Name)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.ValueSpec:
					add(spec.Names...)
				case *ast.TypeSpec:
					add(spec.Name)
					if st, ok := spec.Type.(*ast.StructType); ok {
						for _, f := range st.Fields.List {
							add(f.Names...)
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

// wordsOf splits "newGuestID" or "guest_test" into its words, in lower case. A word starts at an upper-case
// letter beside a lower-case one, and ends at what is no letter.
func wordsOf(name string) []string {
	var words []string
	runes, start := []rune(name), 0
	for i := 1; i <= len(runes); i++ {
		if i < len(runes) && unicode.IsLetter(runes[i-1]) && unicode.IsLetter(runes[i]) {
			begins := unicode.IsUpper(runes[i]) &&
				(unicode.IsLower(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1]))
			if !begins {
				continue
			}
		}
		words = append(words, strings.ToLower(string(runes[start:i])))
		start = i
	}
	return words
}

// maxColumns is the longest line of code or text, with a tab as tabColumns.
const (
	maxColumns = 110
	tabColumns = 4
)

// foldersWithLongLines are not held to maxColumns yet. The list only gets shorter.
var foldersWithLongLines = []string{
	"auth", "docs", "server",
}

func TestLinesAreNotTooLong(t *testing.T) {
	t.Parallel()
	for _, name := range listFiles(t) {
		if !strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, ".md") ||
			strings.Contains(name, "testdata/") ||
			slices.Contains(foldersWithLongLines, path.Dir(name)) {
			continue
		}
		for i, line := range bytes.Split([]byte(read(t, name)), []byte("\n")) {
			if n := columns(line); n > maxColumns && !mayBeLong(name, string(line)) {
				t.Errorf("%s:%d: %d columns, more than %d", name, i+1, n, maxColumns)
			}
		}
	}
}

// mayBeLong reports whether a line cannot be broken: a row of a table or a link in a document, a URL, or a
// string that stands alone on its line.
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
