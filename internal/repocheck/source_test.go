package repocheck_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// topFolders are the folders at the top. A new one needs a decision record.
var topFolders = []string{
	"cmd", "server", "auth", "ca", "raftstore", "proxy", "node", "tsh", "internal", "integration",
	"docs", "deploy",
}

// meaninglessNames are names that say nothing about the question a package answers.
var meaninglessNames = []string{
	"lib", "pkg", "common", "util", "utils", "helper", "helpers", "type", "types", "model", "models",
	"service", "services", "manager", "managers", "base", "misc", "mock", "mocks",
}

// Top-level folders are known, no folder has a name that says nothing, and internal is not nested.
func TestFolderNames(t *testing.T) {
	t.Parallel()
	for _, name := range listFiles(t) {
		parts := strings.Split(path.Dir(name), "/")
		if parts[0] == "." {
			if strings.HasSuffix(name, ".go") {
				t.Errorf("%s: there is no root package", name)
			}
			continue
		}
		if !slices.Contains(topFolders, parts[0]) && !strings.HasPrefix(parts[0], ".") {
			t.Errorf(
				"%s: top-level folder %s needs a decision record and a row in source_test.go",
				name, parts[0],
			)
		}
		for i, part := range parts {
			if slices.Contains(meaninglessNames, part) {
				t.Errorf("%s: folder %q says nothing", name, part)
			}
			if part == "internal" && i > 0 {
				t.Errorf("%s: a second internal level", name)
			}
		}
	}
}

func TestEveryPackageHasADocComment(t *testing.T) {
	t.Parallel()
	for _, p := range listPackages(t) {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", p.name())
		}
	}
}

// Calls are found by name, so os.Exit passed as a value is found too.
func TestCallsThatAreRefused(t *testing.T) {
	t.Parallel()
	skips := []string{"Skip", "Skipf", "SkipNow"}
	receivers := []string{"t", "b", "f", "tb"}
	for _, name := range listFiles(t) {
		if !strings.HasSuffix(name, ".go") {
			continue
		}
		test := strings.HasSuffix(name, "_test.go")
		for _, call := range callsOf(t, name) {
			switch {
			case test && call.on == "time" && call.name == "Sleep":
				t.Errorf("%s:%d: a test sleeps: use synctest, a channel or a deadline", name, call.line)
			case test && slices.Contains(receivers, call.on) && slices.Contains(skips, call.name):
				t.Errorf("%s:%d: a test is skipped", name, call.line)
			case !test && !strings.HasPrefix(name, "cmd/") && exitsProcess(call):
				t.Errorf("%s:%d: %s.%s outside cmd: return an error", name, call.line, call.on, call.name)
			}
		}
	}
}

// Package-level variables are never set after the process has started, and importing a package has no effect.
func TestNoPackageHasMutableState(t *testing.T) {
	t.Parallel()
	// Both are by folder and name of the variable, as "auth/login.timeout".
	declared := map[string]bool{}   // the variables of packages
	setWhere := map[string]string{} // the names that functions set, with the place; also of local variables
	for _, name := range listFiles(t) {
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") ||
			strings.HasPrefix(name, "integration/") {
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, filepath.Join(root, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, decl := range file.Decls {
			switch decl := decl.(type) {
			case *ast.GenDecl:
				for _, v := range variablesOf(decl) {
					declared[path.Dir(name)+"."+v] = true
				}
			case *ast.FuncDecl:
				if decl.Recv == nil && decl.Name.Name == "init" {
					t.Errorf("%s: init: importing a package does nothing", name)
				}
				for v, pos := range namesSetIn(decl) {
					setWhere[path.Dir(name)+"."+v] = fset.Position(pos).String()
				}
			}
		}
	}
	for v, where := range setWhere {
		if declared[v] {
			t.Errorf("%s: sets %s, a variable of the package: keep it in a value with an owner", where, v)
		}
	}
}

// variablesOf lists the variables that a declaration at package level makes.
func variablesOf(d *ast.GenDecl) (out []string) {
	for _, spec := range d.Specs {
		if v, ok := spec.(*ast.ValueSpec); ok && d.Tok == token.VAR {
			for _, id := range v.Names {
				out = append(out, id.Name)
			}
		}
	}
	return out
}

// namesSetIn returns the names that a function assigns to without declaring them anywhere in it, and where. A
// variable also counts as set if the function sets an element or a field of it.
func namesSetIn(f *ast.FuncDecl) map[string]token.Pos {
	assigned, declared := map[string]token.Pos{}, map[string]bool{}
	var assign func(ast.Expr)
	assign = func(target ast.Expr) {
		switch target := target.(type) {
		case *ast.Ident:
			assigned[target.Name] = target.Pos()
		case *ast.IndexExpr:
			assign(target.X)
		case *ast.SelectorExpr:
			assign(target.X)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field: // parameters and results
			for _, id := range n.Names {
				declared[id.Name] = true
			}
		case *ast.ValueSpec:
			for _, id := range n.Names {
				declared[id.Name] = true
			}
		case *ast.RangeStmt:
			for _, e := range []ast.Expr{n.Key, n.Value} {
				if id, ok := e.(*ast.Ident); ok {
					declared[id.Name] = true
				}
			}
		case *ast.IncDecStmt:
			assign(n.X)
		case *ast.AssignStmt:
			for _, target := range n.Lhs {
				if id, ok := target.(*ast.Ident); ok && n.Tok == token.DEFINE {
					declared[id.Name] = true
				} else {
					assign(target)
				}
			}
		}
		return true
	})
	maps.DeleteFunc(assigned, func(name string, _ token.Pos) bool { return declared[name] })
	return assigned
}

// exitsProcess reports whether a call ends the process.
func exitsProcess(c call) bool {
	return c.on == "os" && c.name == "Exit" || c.on == "syscall" && c.name == "Exit" ||
		c.on == "log" && strings.HasPrefix(c.name, "Fatal")
}

// call is a use of a selector, as os.Exit: mostly a call.
type call struct {
	on, name string // "os" and "Exit"
	line     int
}

// callsOf lists the selectors on plain names in a Go file.
func callsOf(t *testing.T, name string) []call {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, filepath.Join(root, name), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return nil
	}
	var out []call
	ast.Inspect(file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if on, ok := sel.X.(*ast.Ident); ok {
				out = append(out, call{on: on.Name, name: sel.Sel.Name, line: fset.Position(sel.Pos()).Line})
			}
		}
		return true
	})
	return out
}
