package repocheck_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/errors.md from the declarations")

// errorCode is one declaration of a fault.Code.
type errorCode struct {
	name, kind, text, remedy string
	where                    string   // its package, as "auth/totp"
	pos                      string   // file:line
	args                     []string // what the texts name in braces, sorted
}

// errorUse is one call of New or Wrap of a declared code.
type errorUse struct {
	code, pos string
	args      []string // the names of the arguments, sorted
	unknown   string   // why the arguments cannot be read; "" if they can
}

// errorCodes has the declarations by "folder.Variable", and all uses of declared codes.
type errorCodes struct {
	declared map[string]errorCode
	uses     []errorUse
	used     map[string]bool // by the key of declared: the variable is named somewhere
	faults   []string        // what is wrong with the way in which codes are declared
}

// sourceFile is a Go file that is no test.
type sourceFile struct {
	name, folder string
	fset         *token.FileSet
	ast          *ast.File
	imports      map[string]string // folders of this repository by the name in the file
}

// parseSources parses every Go file of the product.
func parseSources(t *testing.T) []sourceFile {
	t.Helper()
	var out []sourceFile
	for _, name := range listFiles(t) {
		isTest := strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "integration/")
		if !strings.HasSuffix(name, ".go") || isTest {
			continue
		}
		f := sourceFile{name: name, folder: path.Dir(name), fset: token.NewFileSet()}
		var err error
		f.ast, err = parser.ParseFile(f.fset, filepath.Join(root, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		f.imports = map[string]string{}
		for _, spec := range f.ast.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			folder, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				continue
			}
			local := path.Base(folder)
			if spec.Name != nil {
				local = spec.Name.Name
			}
			f.imports[local] = folder
		}
		out = append(out, f)
	}
	return out
}

func (f sourceFile) pos(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.name, f.fset.Position(n.Pos()).Line)
}

// isCodeType reports whether e names the type fault.Code.
func (f sourceFile) isCodeType(e ast.Expr) bool {
	if sel, ok := e.(*ast.SelectorExpr); ok {
		on, ok := sel.X.(*ast.Ident)
		return ok && sel.Sel.Name == "Code" && f.imports[on.Name] == "internal/fault"
	}
	id, ok := e.(*ast.Ident)
	return ok && id.Name == "Code" && f.folder == "internal/fault"
}

// variable returns the key of the variable that e names, as "auth/totp.wrongCode", or "".
func (f sourceFile) variable(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return f.folder + "." + e.Name
	case *ast.SelectorExpr:
		if on, ok := e.X.(*ast.Ident); ok && f.imports[on.Name] != "" {
			return f.imports[on.Name] + "." + e.Sel.Name
		}
	}
	return ""
}

// readErrorCodes reads the declarations of all codes, and then their uses.
func readErrorCodes(t *testing.T) *errorCodes {
	t.Helper()
	c := &errorCodes{declared: map[string]errorCode{}, used: map[string]bool{}}
	files := parseSources(t)
	texts := map[string]string{} // constant texts, by "folder.Name"
	for range 2 {                // a constant may be made of another one that comes later
		for _, f := range files {
			for name, value := range constantsOf(f, texts) {
				texts[name] = value
			}
		}
	}
	for _, f := range files {
		c.readDeclarations(f, texts)
	}
	for _, f := range files {
		c.readUses(f)
	}
	return c
}

// constantsOf returns the constant texts of a file that are made of literals and of known constants.
func constantsOf(f sourceFile, known map[string]string) map[string]string {
	out := map[string]string{}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if _, isFunc := n.(*ast.FuncDecl); isFunc {
			return false
		}
		decl, ok := n.(*ast.GenDecl)
		if !ok || decl.Tok != token.CONST {
			return true
		}
		for _, spec := range decl.Specs {
			v := spec.(*ast.ValueSpec)
			for i := range v.Values {
				if text, ok := constantText(f, v.Values[i], known); ok {
					out[f.folder+"."+v.Names[i].Name] = text
				}
			}
		}
		return true
	})
	return out
}

// constantText evaluates a constant text.
func constantText(f sourceFile, e ast.Expr, known map[string]string) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		left, ok1 := constantText(f, e.X, known)
		right, ok2 := constantText(f, e.Y, known)
		return left + right, ok1 && ok2 && e.Op == token.ADD
	case *ast.Ident, *ast.SelectorExpr:
		s, ok := known[f.variable(e)]
		return s, ok
	}
	return "", false
}

// readDeclarations reads the codes that a file declares. Each must be a variable of the package of its own,
// with constant fields.
func (c *errorCodes) readDeclarations(f sourceFile, texts map[string]string) {
	atTop := map[*ast.CompositeLit]bool{}
	for _, decl := range f.ast.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.VAR {
			continue
		}
		for _, spec := range gen.Specs {
			v := spec.(*ast.ValueSpec)
			for i, value := range v.Values {
				lit, ok := value.(*ast.CompositeLit)
				if !ok || !f.isCodeType(lit.Type) {
					continue
				}
				atTop[lit] = true
				c.declare(f, v.Names[i].Name, lit, texts)
			}
		}
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if lit, ok := n.(*ast.CompositeLit); ok && f.isCodeType(lit.Type) && !atTop[lit] {
			const msg = ": a code is declared inside something: make it a variable"
			c.faults = append(c.faults, f.pos(lit)+msg)
		}
		return true
	})
}

func (c *errorCodes) declare(f sourceFile, variable string, lit *ast.CompositeLit, texts map[string]string) {
	code := errorCode{where: f.folder, pos: f.pos(lit)}
	for _, element := range lit.Elts {
		field, ok := element.(*ast.KeyValueExpr)
		if !ok {
			c.faults = append(c.faults, code.pos+": a code is declared without names of fields")
			return
		}
		name := field.Key.(*ast.Ident).Name
		if name == "Kind" {
			code.kind = kindName(field.Value)
			continue
		}
		text, ok := constantText(f, field.Value, texts)
		if !ok {
			c.faults = append(c.faults, f.pos(field)+": "+name+" is not constant")
		}
		switch name {
		case "Name":
			code.name = text
		case "Text":
			code.text = text
		case "Remedy":
			code.remedy = text
		}
	}
	for _, m := range placeholder.FindAllStringSubmatch(code.text+" "+code.remedy, -1) {
		if !slices.Contains(code.args, m[1]) {
			code.args = append(code.args, m[1])
		}
	}
	slices.Sort(code.args)
	c.declared[f.folder+"."+variable] = code
}

// placeholder is an argument in a text.
var placeholder = regexp.MustCompile(`\{([^{}]*)\}`)

// kindName returns the last part of fault.NotFound, or of NotFound in package fault.
func kindName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// readUses reads where a file uses declared codes.
func (c *errorCodes) readUses(f sourceFile) {
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if e, ok := n.(ast.Expr); ok {
			if key := f.variable(e); key != "" && !f.declares(e) {
				c.used[key] = true
			}
		}
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		method, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || method.Sel.Name != "New" && method.Sel.Name != "Wrap" {
			return true
		}
		code, known := c.declared[f.variable(method.X)]
		if !known {
			return true
		}
		first := 1 // the index of the arguments
		if method.Sel.Name == "Wrap" {
			first = 2
		}
		use := errorUse{code: code.name, pos: f.pos(call)}
		use.readArgs(call.Args[min(first, len(call.Args)):])
		c.uses = append(c.uses, use)
		return true
	})
}

// declares reports whether e is the name in the declaration of a variable of the package.
func (f sourceFile) declares(e ast.Expr) bool {
	for _, decl := range f.ast.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.VAR {
			continue
		}
		for _, spec := range gen.Specs {
			for _, id := range spec.(*ast.ValueSpec).Names {
				if id == e {
					return true
				}
			}
		}
	}
	return false
}

func (u *errorUse) readArgs(given []ast.Expr) {
	for _, e := range given {
		lit, ok := e.(*ast.CompositeLit)
		if !ok {
			u.unknown = "the arguments are not a literal fault.Args"
			return
		}
		for _, element := range lit.Elts {
			key, ok := element.(*ast.KeyValueExpr).Key.(*ast.BasicLit)
			if !ok {
				u.unknown = "the name of an argument is not a literal"
				return
			}
			name, _ := strconv.Unquote(key.Value)
			u.args = append(u.args, name)
		}
	}
	slices.Sort(u.args)
}

var (
	codeName     = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)+$`)
	argumentName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	// strayFormat is a verb of package fmt, which a text may not have.
	strayFormat = regexp.MustCompile(`%[a-z0-9.]`)
)

// Every code has a name of its own, a text, a remedy, and is used with the arguments that its texts name.
func TestErrorCodesAreDeclaredWell(t *testing.T) {
	t.Parallel()
	c := readErrorCodes(t)
	for _, fault := range c.faults {
		t.Error(fault)
	}
	names := map[string]string{}
	for key, code := range c.declared {
		switch {
		case !codeName.MatchString(code.name):
			t.Errorf("%s: %q is not of the form subject-what", code.pos, code.name)
		case names[code.name] != "":
			t.Errorf("%s: %s is declared at %s too", code.pos, code.name, names[code.name])
		case code.kind == "" || code.text == "" || code.remedy == "":
			t.Errorf("%s: %s needs a kind, a text and a remedy", code.pos, code.name)
		case strings.HasSuffix(code.text, ".") || strings.HasSuffix(code.remedy, "."):
			t.Errorf("%s: %s: a text ends with a full stop", code.pos, code.name)
		case strayFormat.MatchString(code.text + code.remedy):
			t.Errorf("%s: %s: a text has a verb of package fmt", code.pos, code.name)
		case !c.used[key]:
			t.Errorf("%s: nothing uses %s", code.pos, code.name)
		}
		for _, arg := range code.args {
			if !argumentName.MatchString(arg) {
				t.Errorf("%s: %s: %q is no name of an argument", code.pos, code.name, arg)
			}
		}
		names[code.name] = code.pos
	}
	byName := map[string]errorCode{}
	for _, code := range c.declared {
		byName[code.name] = code
	}
	for _, use := range c.uses {
		want := byName[use.code].args
		if use.unknown != "" {
			t.Errorf("%s: %s: %s", use.pos, use.code, use.unknown)
		} else if !slices.Equal(use.args, want) {
			t.Errorf("%s: %s: got the arguments %q, want those of the texts: %q",
				use.pos, use.code, use.args, want)
		}
	}
}

const (
	errorsPage    = "docs/errors.md"
	retiredMarker = "\n## Codes no longer used\n"
)

// docs/errors.md lists the codes as they are declared. A code that was on the page may not come to mean
// something else: it stays in the list at the end of the page, from which no declaration may take a name.
func TestTheErrorsPageIsCurrent(t *testing.T) {
	t.Parallel()
	c := readErrorCodes(t)
	old, _ := os.ReadFile(filepath.Join(root, errorsPage)) // there is none before the first update
	retired := retiredCodes(string(old))
	for _, code := range c.declared {
		if slices.Contains(retired, code.name) {
			t.Errorf("%s: %s was used before and is retired: choose another name", code.pos, code.name)
		}
	}
	declared := slices.Collect(maps.Values(c.declared))
	for _, name := range codesOnPage(string(old)) {
		if !slices.ContainsFunc(declared, func(code errorCode) bool { return code.name == name }) {
			retired = append(retired, name)
		}
	}
	slices.Sort(retired)
	page := formatErrorsPage(declared, slices.Compact(retired))
	if *update {
		if err := os.WriteFile(filepath.Join(root, errorsPage), []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if page != string(old) {
		t.Errorf("%s is not what the declarations say; run: make errors", errorsPage)
	}
}

var (
	codeRow     = regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\|")
	retiredItem = regexp.MustCompile("(?m)^- `([a-z0-9-]+)`$")
)

// codesOnPage returns the codes in the table of the page.
func codesOnPage(page string) []string {
	return firstGroups(codeRow.FindAllStringSubmatch(page, -1))
}

// retiredCodes returns the codes in the list at the end of the page.
func retiredCodes(page string) []string {
	_, list, _ := strings.Cut(page, retiredMarker)
	return firstGroups(retiredItem.FindAllStringSubmatch(list, -1))
}

func firstGroups(matches [][]string) (out []string) {
	for _, m := range matches {
		out = append(out, m[1])
	}
	return out
}

const errorsPageHead = `# Errors

Each error of Threshold has a code, which keeps its meaning for ever: a script may depend on it.
` + "`tsh --format=json`" + ` prints it ([cli.md](cli.md#errors)). The text and the remedy are for people
and may change. What stands in braces is an argument; the error carries it by that name.

This page is made from the declarations in the source by ` + "`make errors`" + `.

| code | kind | text | remedy | from |
|---|---|---|---|---|
`

// kinds are the names on the wire of the constants of package fault.
var kinds = map[string]string{"NotFound": "not_found"}

func formatErrorsPage(codes []errorCode, retired []string) string {
	slices.SortFunc(codes, func(a, b errorCode) int { return strings.Compare(a.name, b.name) })
	var out strings.Builder
	out.WriteString(errorsPageHead)
	for _, code := range codes {
		kind := kinds[code.kind]
		if kind == "" {
			kind = strings.ToLower(code.kind)
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s | `%s` |\n",
			code.name, kind, cell(code.text), cell(code.remedy), code.where)
	}
	out.WriteString(retiredMarker)
	out.WriteString("\n")
	if len(retired) == 0 {
		out.WriteString("None.\n")
	}
	for _, name := range retired {
		fmt.Fprintf(&out, "- `%s`\n", name)
	}
	return out.String()
}

// cell escapes what Markdown would read in a cell of a table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`, "_", `\_`, "\n", " ").Replace(s)
}

// Each declaration and use here has the fault that its name says: a check that finds nothing proves nothing.
func TestBadErrorCodesAreFound(t *testing.T) {
	t.Parallel()
	const source = `package x
import "github.com/threshold-access/threshold/internal/fault"
const again = "try again: {name}"
var good = fault.Code{Name: "a-b", Kind: fault.Denied, Text: "no {thing}", Remedy: again}
var dynamic = fault.Code{Name: "c-d", Kind: fault.Denied, Text: text(), Remedy: again}
func f() {
	inner := fault.Code{Name: "e-f"}
	good.New("op", fault.Args{"thing": 1})
	good.Wrap(err, "op", fault.Args{"thing": 1, "name": 2})
	good.New("op", args)
}`
	f := sourceFile{name: "x/x.go", folder: "x", fset: token.NewFileSet()}
	f.imports = map[string]string{"fault": "internal/fault"}
	var err error
	if f.ast, err = parser.ParseFile(f.fset, f.name, source, 0); err != nil {
		t.Fatal(err)
	}
	c := &errorCodes{declared: map[string]errorCode{}, used: map[string]bool{}}
	c.readDeclarations(f, constantsOf(f, nil))
	c.readUses(f)
	if want := []string{"x/x.go:5: Text is not constant",
		"x/x.go:7: a code is declared inside something: make it a variable"}; !slices.Equal(c.faults, want) {
		t.Errorf("got %q, want %q", c.faults, want)
	}
	good := c.declared["x.good"]
	if good.text != "no {thing}" || good.kind != "Denied" ||
		!slices.Equal(good.args, []string{"name", "thing"}) {
		t.Errorf("got %+v, want the declaration", good)
	}
	var got []string
	for _, use := range c.uses {
		got = append(got, fmt.Sprint(use.args, use.unknown))
	}
	want := []string{"[thing]", "[name thing]", "[]the arguments are not a literal fault.Args"}
	if !slices.Equal(got, want) || !c.used["x.good"] || c.used["x.dynamic"] {
		t.Errorf("got %q and %v, want %q and only good used", got, c.used, want)
	}
}
