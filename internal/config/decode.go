package config

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decoder reads one file and collects its faults. It is used once.
type decoder struct {
	file       string
	faults     Faults
	faultPaths []string // paths that have a fault
	unlisted   int      // faults beyond maxFaults
}

// err returns the faults in the order of their lines, or nil.
func (d *decoder) err() error {
	if len(d.faults) == 0 {
		return nil
	}
	sortByLine(d.faults)
	if d.unlisted > 0 {
		d.faults = append(
			d.faults,
			Fault{File: d.file, Msg: fmt.Sprintf("%d more faults are not listed", d.unlisted)},
		)
	}
	return d.faults
}

var (
	nodeType     = reflect.TypeFor[yaml.Node]()
	durationType = reflect.TypeFor[time.Duration]()
	stringsType  = reflect.TypeFor[Strings]()
)

// value reads n into v, which must be settable. A part with a fault stays zero.
func (d *decoder) value(n *yaml.Node, path string, v reflect.Value) {
	if isNull(n) {
		d.nullFault(n, path, v.Type())
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, path, v.Elem())
		return
	}
	switch u := v.Addr().Interface().(type) {
	case encoding.TextUnmarshaler:
		d.text(n, path, u)
	case *Strings: // is a json.Unmarshaler too, whose errors would be less clear
		d.plain(n, path, v)
	case json.Unmarshaler:
		d.json(n, path, u)
	default:
		d.plain(n, path, v)
	}
	d.check(n, path, v)
}

// nullFault reports a key without a value.
func (d *decoder) nullFault(n *yaml.Node, path string, t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	hint := ""
	if t.Kind() == reflect.Struct || t.Kind() == reflect.Map {
		hint = ", write {} for an empty one"
	}
	d.addFault(n.Line, pathOrFile(path), "has no value: give one%s, or remove the key", hint)
}

// plain reads n by the kind of v: yaml.Node as it is, time.Duration and Strings from their text forms, and
// all else by reflection.
func (d *decoder) plain(n *yaml.Node, path string, v reflect.Value) {
	switch v.Type() {
	case nodeType:
		v.Set(reflect.ValueOf(*n))
		return
	case durationType:
		d.duration(n, path, v)
		return
	case stringsType:
		if n.Kind == yaml.ScalarNode {
			n = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Line: n.Line, Content: []*yaml.Node{n}}
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, path, v)
	case reflect.Map:
		d.mapping(n, path, v)
	case reflect.Slice:
		d.list(n, path, v)
	default:
		d.scalar(n, path, v)
	}
}

// structure reads the keys of n into the fields of v. It reports unknown keys, with the field that was
// probably meant, and required fields without a key. A required field is not reported missing when a mistyped
// key was probably meant for it.
func (d *decoder) structure(n *yaml.Node, path string, v reflect.Value) {
	if !d.expect(n, path, yaml.MappingNode, "keys and values") {
		return
	}
	fields := fieldsOf(v.Type())
	given, guessed := map[string]bool{}, map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		at := joinKey(path, key.Value)
		f, known := find(fields, key.Value)
		if known {
			given[f.name] = true
			d.value(n.Content[i+1], at, v.FieldByIndex(f.index))
			continue
		}
		if hint := suggest(key.Value, fields); hint != "" {
			guessed[hint] = true
			d.addFault(key.Line, at, "unknown key, did you mean %q?", hint)
		} else {
			d.addFault(key.Line, at, "unknown key; known here: %s", names(fields))
		}
	}
	for _, f := range fields {
		if f.required && !given[f.name] && !guessed[f.name] {
			d.addFault(n.Line, joinKey(path, f.name), "is missing, and required")
		}
	}
}

func (d *decoder) mapping(n *yaml.Node, path string, v reflect.Value) {
	if !d.expect(n, path, yaml.MappingNode, "keys and values") {
		return
	}
	t := v.Type()
	if t.Key().Kind() != reflect.String {
		panic(fmt.Sprintf("config: %s: the keys of %s are no strings", path, t))
	}
	v.Set(reflect.MakeMapWithSize(t, len(n.Content)/2))
	for i := 0; i+1 < len(n.Content); i += 2 {
		elem := reflect.New(t.Elem()).Elem()
		d.value(n.Content[i+1], joinKey(path, n.Content[i].Value), elem)
		v.SetMapIndex(reflect.ValueOf(n.Content[i].Value).Convert(t.Key()), elem)
	}
}

func (d *decoder) list(n *yaml.Node, path string, v reflect.Value) {
	if !d.expect(n, path, yaml.SequenceNode, "a list") {
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		d.value(item, fmt.Sprintf("%s[%d]", path, i), v.Index(i))
	}
}

// scalar reads a text, truth value or number. It panics for a type that no file can hold: that is our defect.
func (d *decoder) scalar(n *yaml.Node, path string, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		// A date is accepted as text. A number or a truth value is not, because 0755, 1.10 and no would be
		// read back changed.
		if d.expect(n, path, yaml.ScalarNode, "text", "!!str", "!!timestamp") {
			v.SetString(n.Value)
		}
	case reflect.Bool:
		if d.expect(n, path, yaml.ScalarNode, "true or false", "!!bool") {
			v.SetBool(strings.EqualFold(n.Value, "true"))
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if d.expect(n, path, yaml.ScalarNode, "a whole number", "!!int") {
			if x, err := strconv.ParseInt(n.Value, 0, v.Type().Bits()); d.inRange(n, path, err) {
				v.SetInt(x)
			}
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if d.expect(n, path, yaml.ScalarNode, "a whole number", "!!int") {
			if x, err := strconv.ParseUint(n.Value, 0, v.Type().Bits()); d.inRange(n, path, err) {
				v.SetUint(x)
			}
		}
	case reflect.Float32, reflect.Float64:
		if d.expect(n, path, yaml.ScalarNode, "a number", "!!int", "!!float") {
			if x, err := strconv.ParseFloat(n.Value, v.Type().Bits()); d.inRange(n, path, err) {
				v.SetFloat(x)
			}
		}
	default:
		panic(fmt.Sprintf("config: %s: %s cannot be read from a file", path, v.Type()))
	}
}

// inRange reports a fault for a number that strconv could not parse.
func (d *decoder) inRange(n *yaml.Node, path string, err error) bool {
	if err != nil {
		d.addFault(n.Line, path, "%s is out of range", quoted(n.Value))
	}
	return err == nil
}

// duration reads a Go duration that is not negative. A number without a unit is a fault that says so.
func (d *decoder) duration(n *yaml.Node, path string, v reflect.Value) {
	if !d.expect(n, path, yaml.ScalarNode, "a duration, as 90s, 15m or 8h", "!!str", "!!int", "!!float") {
		return
	}
	x, err := time.ParseDuration(n.Value)
	switch {
	case err != nil && n.Tag != "!!str":
		d.addFault(n.Line, path, "a duration needs a unit, as %ss", printable(n.Value, 20))
	case err != nil:
		d.addFault(n.Line, path, "%s is not a duration: write 90s, 15m, 8h or 1h30m", quoted(n.Value))
	case x < 0:
		d.addFault(n.Line, path, "a duration must not be negative")
	default:
		v.SetInt(int64(x))
	}
}

// text reads a scalar with the value's own UnmarshalText.
func (d *decoder) text(n *yaml.Node, path string, u encoding.TextUnmarshaler) {
	if !d.expect(n, path, yaml.ScalarNode, "one value") {
		return
	}
	if err := u.UnmarshalText([]byte(n.Value)); err != nil {
		d.addFault(n.Line, path, "%s", printable(err.Error(), 200))
	}
}

// json reads n with the value's own UnmarshalJSON. The fault of a wrong type is worded as for other values.
func (d *decoder) json(n *yaml.Node, path string, u json.Unmarshaler) {
	b, ok := d.toJSON(n, path)
	if !ok {
		return
	}
	err := u.UnmarshalJSON(b)
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong):
		d.addFault(n.Line, pathOrFile(path), "cannot be, or hold, %s", describeJSON(wrong.Value))
	case err != nil:
		d.addFault(n.Line, pathOrFile(path), "%s", printable(err.Error(), 200))
	}
}

// expect reports a fault unless n is of the kind and, where tags are given, has one of them. The fault never
// shows the value, which may be a secret.
func (d *decoder) expect(n *yaml.Node, path string, kind yaml.Kind, what string, tags ...string) bool {
	if n.Kind == kind {
		if len(tags) == 0 {
			return true
		}
		for _, tag := range tags {
			if n.Tag == tag {
				return true
			}
		}
	}
	hint := ""
	if what == "text" && n.Kind == yaml.ScalarNode {
		hint = ": put it in quotes"
	}
	d.addFault(n.Line, pathOrFile(path), "must be %s, not %s%s", what, describe(n), hint)
	return false
}

// describe names what n is, in words for people who write files.
func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "keys and values"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!bool":
		return "true or false"
	case n.Tag == "!!int", n.Tag == "!!float":
		return "a number"
	case n.Tag == "!!timestamp":
		return "a date"
	}
	return "text"
}

// describeJSON says what json.UnmarshalTypeError reports of a value, as "number" or "number 300", in the
// words of describe.
func describeJSON(value string) string {
	kind, _, _ := strings.Cut(value, " ")
	switch kind {
	case "number":
		return "a number: put it in quotes if it is text"
	case "bool":
		return "true or false: put it in quotes if it is text"
	case "array":
		return "a list"
	case "object":
		return "keys and values"
	}
	return "text"
}

// check calls Check of v, where it has one, and reports what that finds with lines of the file.
func (d *decoder) check(n *yaml.Node, path string, v reflect.Value) {
	c, ok := v.Addr().Interface().(Checker)
	if !ok {
		return
	}
	before := d.faultPaths[:len(d.faultPaths):len(d.faultPaths)]
	c.Check(func(sub, format string, args ...any) {
		line, canonical := resolve(n, sub)
		at := joinPath(path, canonical)
		for _, bad := range before {
			if at == bad || strings.HasPrefix(at, bad+".") || strings.HasPrefix(at, bad+"[") {
				return
			}
		}
		d.addFault(line, at, "%s", fmt.Sprintf(format, args...))
	})
}

// pathStep matches one part of a path: a key, or an index in brackets.
var pathStep = regexp.MustCompile(`[^.\[\]]+|\[\d+\]`)

// resolve returns the line of the part of n that sub names, or of the deepest part of sub that is in the
// file. canonical is sub in the form that faults use: an index is written [0], also where a Checker writes
// .0.
func resolve(n *yaml.Node, sub string) (line int, canonical string) {
	line = n.Line
	steps := pathStep.FindAllString(sub, -1)
	for i, s := range steps {
		next, at := child(n, s)
		if next == nil {
			return line, joinPath(canonical, strings.Join(steps[i:], "."))
		}
		if n.Kind == yaml.SequenceNode {
			s = "[" + strings.Trim(s, "[]") + "]"
		}
		n, line, canonical = next, at, joinPath(canonical, s)
	}
	return line, canonical
}

// child returns the part of n that a path step names, and the line of its key. It is nil when there is none.
func child(n *yaml.Node, s string) (*yaml.Node, int) {
	if n.Kind == yaml.SequenceNode {
		i, err := strconv.Atoi(strings.Trim(s, "[]"))
		if err != nil || i < 0 || i >= len(n.Content) {
			return nil, 0
		}
		return n.Content[i], n.Content[i].Line
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == s {
			return n.Content[i+1], n.Content[i].Line
		}
	}
	return nil, 0
}

// plainKey matches a key that can be shown in a path as it is.
var plainKey = regexp.MustCompile(`^[A-Za-z0-9_./-]{1,60}$`)

// joinKey appends a key of the file to a path.
func joinKey(path, key string) string {
	if !plainKey.MatchString(key) {
		key = quoted(key)
	}
	return joinPath(path, key)
}

// joinPath appends a relative path to a path.
func joinPath(path, sub string) string {
	if path == "" || sub == "" || sub[0] == '[' {
		return path + sub
	}
	return path + "." + sub
}

// pathOrFile is the path as faults show it; the root of a document has none.
func pathOrFile(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}
