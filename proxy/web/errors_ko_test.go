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

// sentenceReader reads what the sources say in faults: constants by name, and each sentence with "*" for what
// differs.
type sentenceReader struct {
	consts map[string]string
	found  map[string]token.Position
	files  *token.FileSet
}

// sentences are the arguments that people read, by the name of the function that makes the fault.
var sentences = map[string][]int{
	"New":           {2, 3},
	"Wrap":          {3, 4},
	"lockedFault":   {1},
	"misconfigured": {1},
	"badToken":      {1},
	"link":          {0},
}

func (b *sentenceReader) read(t *testing.T, dir string, skip ...string) {
	t.Helper()
	names, err := filepath.Glob(dir + "/*.go")
	if err != nil || len(names) == 0 {
		t.Fatalf("got %v, %v in %s", names, err, dir)
	}
	var files []*ast.File
	b.consts = map[string]string{}
next:
	for _, name := range names {
		for _, s := range append(skip, "_test.go") {
			if strings.HasSuffix(name, s) {
				continue next
			}
		}
		f, err := parser.ParseFile(b.files, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	for _, visit := range []func(ast.Node) bool{b.constant, b.fault} {
		for _, f := range files {
			ast.Inspect(f, visit)
		}
	}
}

func (b *sentenceReader) constant(n ast.Node) bool {
	v, ok := n.(*ast.ValueSpec)
	for i := 0; ok && i < len(v.Values); i++ {
		if text := b.text(v.Values[i]); text != "*" {
			b.consts[v.Names[i].Name] = text
		}
	}
	return true
}

// fault notes the sentences of a fault, but of one that is made where a program starts: no page shows those.
func (b *sentenceReader) fault(n ast.Node) bool {
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
		for _, i := range sentences[name] {
			if i < len(n.Args) && !strings.HasSuffix(b.text(n.Args[max(0, i-1)]), ".New") && !strings.HasSuffix(b.text(n.Args[max(0, i-2)]), ".New") {
				b.add(n.Args[i])
			}
		}
	case *ast.KeyValueExpr:
		if key, ok := n.Key.(*ast.Ident); ok && (key.Name == "Msg" || key.Name == "Remedy") {
			b.add(n.Value)
		}
	}
	return true
}

func (b *sentenceReader) add(e ast.Expr) {
	if text := b.text(e); strings.Trim(text, "* ") != "" {
		b.found[text] = b.files.Position(e.Pos())
	}
}

var verb = regexp.MustCompile(`%\.?[0-9]*[a-z]`)

func (b *sentenceReader) text(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if s, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return s
		}
	case *ast.BinaryExpr:
		return b.text(e.X) + b.text(e.Y)
	case *ast.Ident:
		if s, ok := b.consts[e.Name]; ok {
			return s
		}
	case *ast.CallExpr:
		if fn, ok := e.Fun.(*ast.SelectorExpr); ok && fn.Sel.Name == "Sprintf" {
			return verb.ReplaceAllString(b.text(e.Args[0]), "*")
		}
	}
	return "*"
}

// Whatever a login can say on a page, it can say in Korean.
func TestEveryLoginErrorHasAKoreanText(t *testing.T) {
	b := sentenceReader{found: map[string]token.Position{}, files: token.NewFileSet()}
	b.read(t, ".")
	b.read(t, "../../auth/login", "redeem.go") // that is between tsh and auth
	b.read(t, "../../auth/oidc")
	b.read(t, "../../auth/totp")
	if len(b.found) < 70 {
		t.Errorf("got %d sentences, want those of the whole login", len(b.found))
	}
	ko := locales[1]
	for text, at := range b.found {
		sample := strings.ReplaceAll(strings.ReplaceAll(text, "is * *", "is 7m behind"), "*", "7m")
		if got, tag := ko.translate(sample); tag != ko.Tag || !strings.ContainsFunc(got, hangul) {
			t.Errorf("%s: got %q for %q, want Korean", at, got, text)
		}
	}
}

func hangul(r rune) bool { return r >= '가' && r <= '힣' }

// A translation has the gaps of its sentence, each once.
func TestPlaceholdersAreFilled(t *testing.T) {
	for key, say := range errorTextsKorean {
		n := strings.Count(key, "*")
		for i := 1; i <= n; i++ {
			if strings.Count(say, fmt.Sprintf("{%d}", i)) != 1 {
				t.Errorf("%q: got %q, want {%d} in it once", key, say, i)
			}
		}
		if strings.Count(say, "{") != n {
			t.Errorf("%q: got %q, want %d gaps", key, say, n)
		}
	}
	for said, want := range map[string]string{
		"try again in 30s": "30초 뒤에 다시 시도하세요",
		"the response of the identity provider {1} <b> is refused: its ID token has expired": "인증 제공자 {1} <b>의 응답을 받아들일 수 없습니다: ID 토큰이 만료되었습니다",
		"there is no connector brand": "brand(이)라는 커넥터가 없습니다", // no phrase of a page is taken for a name
	} {
		if got, _ := locales[1].translate(said); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestSentencesBeginWithACapital(t *testing.T) {
	for in, want := range map[string]string{"run: tsh login": "Run: tsh login", "": "", "é": "É", "코드": "코드", "7": "7"} {
		if got := capitalize(in); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
