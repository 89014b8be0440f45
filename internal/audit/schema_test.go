package audit_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
)

// schemaPath is the JSON Schema of events, for programs that read the log.
const schemaPath = "../../docs/audit.schema.json"

// The schema says what the registry and the types say, with their comments as descriptions.
func TestTheSchemaIsCurrent(t *testing.T) {
	t.Parallel()
	want := generateSchema(t)
	if *update {
		if err := os.WriteFile(schemaPath, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(schemaPath)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/audit.schema.json is not what the registry says: run make schema")
	}
}

// object is a JSON object with its keys in order of the alphabet.
type object = map[string]any

// generateSchema returns the schema as JSON (JSON Schema, draft 2020-12).
func generateSchema(t *testing.T) []byte {
	t.Helper()
	g := schemaGenerator{comments: readComments(t, "event.go", "body.go"), defs: object{}}
	envelope := g.structSchema(reflect.TypeFor[audit.Event]())
	properties := envelope["properties"].(object)
	properties["v"] = object{"type": "integer", "minimum": 1, "description": "the version of the format"}
	var codes []object
	for _, entry := range audit.Registry() {
		body := reflect.TypeOf(entry.Body)
		g.defs[body.Name()] = g.structSchema(body)
		codes = append(codes, object{
			"title":       string(entry.Code) + " " + body.Name(),
			"description": entry.Description,
			"properties": object{
				"code":    object{"const": entry.Code},
				"outcome": object{"const": entry.Outcome},
				"body":    object{"$ref": "#/$defs/" + body.Name()},
			},
		})
	}
	envelope["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	envelope["title"] = "audit event of Threshold"
	envelope["description"] = "A reader ignores fields that it does not know, unless critical names them."
	envelope["oneOf"] = codes
	envelope["$defs"] = g.defs
	b, err := json.MarshalIndent(envelope, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

// schemaGenerator turns types into schemas. Structs inside others are in defs.
type schemaGenerator struct {
	comments map[string]string // of a field as "Type.Field", of a type as "Type"
	defs     object
}

// structSchema returns the schema of a struct.
func (g schemaGenerator) structSchema(t reflect.Type) object {
	properties, required := object{}, []string{}
	for i := range t.NumField() {
		field := t.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		schema := g.typeSchema(field.Type)
		if strings.Contains(options, "string") {
			schema = object{"type": "string", "pattern": "^[0-9]+$"}
		}
		if text := g.comments[commentType(t)+"."+field.Name]; text != "" {
			schema["description"] = text
		}
		properties[name] = schema
		if !strings.Contains(options, "omit") {
			required = append(required, name)
		}
	}
	out := object{"type": "object", "properties": properties, "required": required}
	if text := g.comments[t.Name()]; text != "" {
		out["description"] = text
	}
	return out
}

// commentType is the name of the type whose fields have the comments: one type is declared as another.
func commentType(t reflect.Type) string {
	if t == reflect.TypeFor[audit.Renewal]() {
		return "Issuance"
	}
	return t.Name()
}

func (g schemaGenerator) typeSchema(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[json.RawMessage]():
		return object{"type": "object"}
	case t.Kind() == reflect.Pointer:
		return g.typeSchema(t.Elem())
	case t.Kind() == reflect.Struct:
		if _, done := g.defs[t.Name()]; !done {
			g.defs[t.Name()] = g.structSchema(t)
		}
		return object{"$ref": "#/$defs/" + t.Name()}
	case t.Kind() == reflect.Slice:
		return object{"type": "array", "items": g.typeSchema(t.Elem())}
	case t.Kind() == reflect.String:
		return object{"type": "string"}
	case t.Kind() == reflect.Bool:
		return object{"type": "boolean"}
	}
	return object{"type": "integer"}
}

// readComments returns the comments of types and fields in files of this package.
func readComments(t *testing.T, files ...string) map[string]string {
	t.Helper()
	comments := map[string]string{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			group, ok := decl.(*ast.GenDecl)
			if !ok || group.Tok != token.TYPE {
				continue
			}
			spec := group.Specs[0].(*ast.TypeSpec)
			comments[spec.Name.Name] = oneLine(group.Doc)
			if structType, ok := spec.Type.(*ast.StructType); ok {
				for _, field := range structType.Fields.List {
					comments[spec.Name.Name+"."+field.Names[0].Name] = oneLine(field.Comment)
				}
			}
		}
	}
	return comments
}

func oneLine(group *ast.CommentGroup) string {
	if group == nil {
		return ""
	}
	return strings.Join(strings.Fields(group.Text()), " ")
}
