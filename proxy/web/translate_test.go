package web

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// textReader finds the texts of faults in Go sources. A "*" in a text stands for a part that is not constant.
type textReader struct {
	consts map[string]string         // constant texts of the package that is being read, by name
	found  map[string]token.Position // texts and where they are
	files  *token.FileSet
}

// textArguments are the positions of the arguments that users read, by the name of the function that makes
// a fault.
var textArguments = map[string][]int{
	"New":           {2, 3},
	"Wrap":          {3, 4},
	"lockedFault":   {1},
	"misconfigured": {1},
	"badToken":      {1},
	"link":          {0},
}

// read finds the texts in the package in dir, except in tests and in files whose names end with one of skip.
func (r *textReader) read(t *testing.T, dir string, skip ...string) {
	t.Helper()
	names, err := filepath.Glob(dir + "/*.go")
	if err != nil || len(names) == 0 {
		t.Fatalf("got %v, %v in %s", names, err, dir)
	}
	var files []*ast.File
	r.consts = map[string]string{}
next:
	for _, name := range names {
		for _, s := range append(skip, "_test.go") {
			if strings.HasSuffix(name, s) {
				continue next
			}
		}
		f, err := parser.ParseFile(r.files, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	for _, visit := range []func(ast.Node) bool{r.constant, r.fault} {
		for _, f := range files {
			ast.Inspect(f, visit)
		}
	}
}

// constant records a constant or variable with a text.
func (r *textReader) constant(n ast.Node) bool {
	v, ok := n.(*ast.ValueSpec)
	for i := 0; ok && i < len(v.Values); i++ {
		if text := r.text(v.Values[i]); text != "*" {
			r.consts[v.Names[i].Name] = text
		}
	}
	return true
}

// fault records the texts of a fault, except in operations named "….New": those fail when a program starts,
// and no page shows them.
func (r *textReader) fault(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.CallExpr:
		name := ""
		switch fn := n.Fun.(type) {
		case *ast.Ident:
			name = fn.Name
		case *ast.SelectorExpr:
			name = fn.Sel.Name
			if x, ok := fn.X.(*ast.Ident); (name == "New" || name == "Wrap") && (!ok || x.Name != "fault") {
				return true
			}
		}
		for _, i := range textArguments[name] {
			if i < len(n.Args) && !r.isNew(n.Args[max(0, i-1)]) && !r.isNew(n.Args[max(0, i-2)]) {
				r.add(n.Args[i])
			}
		}
	case *ast.KeyValueExpr:
		if key, ok := n.Key.(*ast.Ident); ok && (key.Name == "Msg" || key.Name == "Remedy") {
			r.add(n.Value)
		}
	}
	return true
}

// isNew reports whether e is the operation of a constructor.
func (r *textReader) isNew(e ast.Expr) bool { return strings.HasSuffix(r.text(e), ".New") }

func (r *textReader) add(e ast.Expr) {
	if text := r.text(e); strings.Trim(text, "* ") != "" {
		r.found[text] = r.files.Position(e.Pos())
	}
}

// verb is a formatting verb.
var verb = regexp.MustCompile(`%\.?[0-9]*[a-z]`)

// text returns the text of an expression, with "*" for every part that is not constant.
func (r *textReader) text(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if s, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return s
		}
	case *ast.BinaryExpr:
		return r.text(e.X) + r.text(e.Y)
	case *ast.Ident:
		if s, ok := r.consts[e.Name]; ok {
			return s
		}
	case *ast.CallExpr:
		if fn, ok := e.Fun.(*ast.SelectorExpr); ok && fn.Sel.Name == "Sprintf" {
			return verb.ReplaceAllString(r.text(e.Args[0]), "*")
		}
	}
	return "*"
}

// Every error with which a login can end has a Korean text.
func TestEveryLoginErrorHasAKoreanText(t *testing.T) {
	t.Parallel()
	r := textReader{found: map[string]token.Position{}, files: token.NewFileSet()}
	r.read(t, ".")
	r.read(t, "../../auth/login", "redeem.go") // between tsh and the auth service, without a page
	r.read(t, "../../auth/oidc")
	r.read(t, "../../auth/totp")
	if len(r.found) < 70 {
		t.Errorf("got %d texts, want those of the whole login", len(r.found))
	}
	ko := locales[1]
	for text, at := range r.found {
		sample := strings.ReplaceAll(strings.ReplaceAll(text, "is * *", "is 7m behind"), "*", "7m")
		if got, tag := ko.translate(sample); tag != ko.Tag || !strings.ContainsFunc(got, hangul) {
			t.Errorf("%s: got %q for %q, want Korean", at, got, text)
		}
	}
}

func hangul(r rune) bool { return r >= '가' && r <= '힣' }

// A translation has each placeholder of its text once.
func TestPlaceholdersAreFilled(t *testing.T) {
	t.Parallel()
	for english, korean := range errorTextsKorean {
		n := strings.Count(english, "*")
		for i := 1; i <= n; i++ {
			if strings.Count(korean, fmt.Sprintf("{%d}", i)) != 1 {
				t.Errorf("%q: got %q, want {%d} in it once", english, korean, i)
			}
		}
		if strings.Count(korean, "{") != n {
			t.Errorf("%q: got %q, want %d placeholders", english, korean, n)
		}
	}
	for text, want := range map[string]string{
		"try again in 30s": "30초 뒤에 다시 시도하세요",
		"the response of the identity provider {1} <r> is refused: its ID token has expired": "인증 제공자 {1} <r>의 응답을 받아들일 수 없습니다: ID 토큰이 만료되었습니다",
		"there is no connector brand": "brand(이)라는 커넥터가 없습니다", // a name is not taken for the key of a text
	} {
		if got, _ := locales[1].translate(text); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestSentencesBeginWithACapital(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"run: tsh login": "Run: tsh login", "": "", "é": "É", "코드": "코드", "7": "7",
	} {
		if got := capitalize(in); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
