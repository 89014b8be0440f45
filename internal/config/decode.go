package config

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/threshold-access/threshold/internal/ascii"
)

// decoder reads one file and collects its faults. A decoder is made for one file and not used again.
//
// Its decode methods take a node of the parsed file, the path of that node as faults show it
// ("spec.allow[0].logins", or "" for the root of the document), and the Go value to fill. They return
// nothing: what is wrong with the file goes into faults.
type decoder struct {
	file       string   // the file's name, as faults show it
	faults     Faults   // at most maxFaults
	faultPaths []string // the paths that have a fault; runChecker drops reports about them
	unlisted   int      // how many faults were found beyond maxFaults
}

// err returns the faults in the order of their lines, or nil if there is none. It is called once, at the end.
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

// decodeValue reads node n into v, which must be settable, and then runs the Check method of v. If a part of
// n has a fault, decodeValue reports it and leaves that part of v zero.
//
// A pointer gets a new value to point to. A type with a text or JSON form of its own reads it itself;
// all other types are read by decodeByType.
func (d *decoder) decodeValue(n *yaml.Node, path string, v reflect.Value) {
	if isNull(n) {
		d.reportNull(n, path, v.Type())
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		d.decodeValue(n, path, v.Elem())
		return
	}
	switch target := v.Addr().Interface().(type) {
	case encoding.TextUnmarshaler:
		d.decodeText(n, path, target)
	case *Strings:
		// Strings is a json.Unmarshaler too, but the errors of its UnmarshalJSON would be less clear.
		d.decodeByType(n, path, v)
	case json.Unmarshaler:
		d.decodeJSON(n, path, target)
	default:
		d.decodeByType(n, path, v)
	}
	d.runChecker(n, path, v)
}

// reportNull reports that node n is null, which means a key without a value. t is the type that was to be
// read; it selects the hint.
func (d *decoder) reportNull(n *yaml.Node, path string, t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	hint := ""
	if t.Kind() == reflect.Struct || t.Kind() == reflect.Map {
		hint = ", write {} for an empty one"
	}
	d.addFault(n.Line, pathOrFile(path), "has no value: give one%s, or remove the key", hint)
}

// decodeByType reads node n into v as the type of v says: a yaml.Node takes n undecoded, a time.Duration is
// read as "8h", Strings may be one text or a list of texts, and all other types are read by reflection.
func (d *decoder) decodeByType(n *yaml.Node, path string, v reflect.Value) {
	switch v.Type() {
	case nodeType:
		v.Set(reflect.ValueOf(*n))
		return
	case durationType:
		d.decodeDuration(n, path, v)
		return
	case stringsType:
		if n.Kind == yaml.ScalarNode { // one text stands for a list of one
			n = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Line: n.Line, Content: []*yaml.Node{n}}
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		d.decodeStruct(n, path, v)
	case reflect.Map:
		d.decodeMap(n, path, v)
	case reflect.Slice:
		d.decodeList(n, path, v)
	default:
		d.decodeScalar(n, path, v)
	}
}

// decodeStruct reads the mapping n into the struct v: each key into the field of that name.
//
// It reports unknown keys, with the name of the field that was probably meant, and required fields that no
// key sets. If an unknown key looks like a misspelling of a required field, it reports only the unknown key:
// the field would be set if the key were spelled right.
func (d *decoder) decodeStruct(n *yaml.Node, path string, v reflect.Value) {
	if !d.requireKind(n, path, yaml.MappingNode, "keys and values") {
		return
	}
	fields := fieldsOf(v.Type())
	given := map[string]bool{}      // the fields that a key sets, by name
	misspelled := map[string]bool{} // the fields that an unknown key was probably meant for
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		keyPath := joinKey(path, key.Value)
		f, known := fieldNamed(fields, key.Value)
		if known {
			given[f.name] = true
			d.decodeValue(value, keyPath, v.FieldByIndex(f.index))
			continue
		}
		if meant := suggestField(key.Value, fields); meant != "" {
			misspelled[meant] = true
			d.addFault(key.Line, keyPath, "unknown key, did you mean %q?", meant)
		} else {
			d.addFault(key.Line, keyPath, "unknown key; known here: %s", fieldNames(fields))
		}
	}
	for _, f := range fields {
		if f.required && !given[f.name] && !misspelled[f.name] {
			d.addFault(n.Line, joinKey(path, f.name), "is required but missing")
		}
	}
}

// decodeMap reads the mapping n into the map v. It panics if the keys of v are not strings, because only our
// own code can cause that.
func (d *decoder) decodeMap(n *yaml.Node, path string, v reflect.Value) {
	if !d.requireKind(n, path, yaml.MappingNode, "keys and values") {
		return
	}
	t := v.Type()
	if t.Key().Kind() != reflect.String {
		panic(fmt.Sprintf("config: %s: the keys of %s are no strings", path, t))
	}
	v.Set(reflect.MakeMapWithSize(t, len(n.Content)/2))
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i].Value, n.Content[i+1]
		elem := reflect.New(t.Elem()).Elem() // elements of a map cannot be set in place
		d.decodeValue(value, joinKey(path, key), elem)
		v.SetMapIndex(reflect.ValueOf(key).Convert(t.Key()), elem)
	}
}

// decodeList reads the sequence n into the slice v.
func (d *decoder) decodeList(n *yaml.Node, path string, v reflect.Value) {
	if !d.requireKind(n, path, yaml.SequenceNode, "a list") {
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		d.decodeValue(item, fmt.Sprintf("%s[%d]", path, i), v.Index(i))
	}
}

// decodeScalar reads the scalar n, a text, truth value or number, into v. It reports a scalar of another type
// and a number that v cannot hold. If v is of a type that no file can contain, such as a channel, it panics,
// because only our own code can cause that.
func (d *decoder) decodeScalar(n *yaml.Node, path string, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		// A date is accepted as text. A number or a truth value is not, because 0755, 1.10 and no would be
		// read back changed.
		if d.requireKind(n, path, yaml.ScalarNode, "text", "!!str", "!!timestamp") {
			v.SetString(n.Value)
		}
	case reflect.Bool:
		if d.requireKind(n, path, yaml.ScalarNode, "true or false", "!!bool") {
			v.SetBool(strings.EqualFold(n.Value, "true"))
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if d.requireKind(n, path, yaml.ScalarNode, "a whole number", "!!int") {
			if x, err := strconv.ParseInt(n.Value, 0, v.Type().Bits()); d.requireRange(n, path, err) {
				v.SetInt(x)
			}
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if d.requireKind(n, path, yaml.ScalarNode, "a whole number", "!!int") {
			if x, err := strconv.ParseUint(n.Value, 0, v.Type().Bits()); d.requireRange(n, path, err) {
				v.SetUint(x)
			}
		}
	case reflect.Float32, reflect.Float64:
		if d.requireKind(n, path, yaml.ScalarNode, "a number", "!!int", "!!float") {
			if x, err := strconv.ParseFloat(n.Value, v.Type().Bits()); d.requireRange(n, path, err) {
				v.SetFloat(x)
			}
		}
	default:
		panic(fmt.Sprintf("config: %s: %s cannot be read from a file", path, v.Type()))
	}
}

// requireRange returns true if err, which strconv returned for the number n, is nil. Otherwise it reports
// that n is out of range, and returns false. The syntax of n is right: its tag says that it is a number.
func (d *decoder) requireRange(n *yaml.Node, path string, err error) bool {
	if err != nil {
		d.addFault(n.Line, path, "%s is out of range", quoted(n.Value))
	}
	return err == nil
}

// decodeDuration reads n into v as time.ParseDuration does. It reports a negative duration and a number
// without a unit.
func (d *decoder) decodeDuration(n *yaml.Node, path string, v reflect.Value) {
	const want = "a duration, as 90s, 15m or 8h"
	if !d.requireKind(n, path, yaml.ScalarNode, want, "!!str", "!!int", "!!float") {
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

// decodeText reads the scalar n with the UnmarshalText method of target, and reports its error.
func (d *decoder) decodeText(n *yaml.Node, path string, target encoding.TextUnmarshaler) {
	if !d.requireKind(n, path, yaml.ScalarNode, "one value") {
		return
	}
	if err := target.UnmarshalText([]byte(n.Value)); err != nil {
		d.addFault(n.Line, path, "%s", printable(err.Error(), 200))
	}
}

// decodeJSON converts node n to JSON, reads that with the UnmarshalJSON method of target, and reports its
// error. It reports a value of the wrong type in the words that requireKind uses, because the author wrote
// YAML and not JSON.
func (d *decoder) decodeJSON(n *yaml.Node, path string, target json.Unmarshaler) {
	b, ok := d.toJSON(n, path)
	if !ok {
		return
	}
	err := target.UnmarshalJSON(b)
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrongType):
		d.addFault(n.Line, pathOrFile(path), "cannot be, or hold, %s", describeJSON(wrongType.Value))
	case err != nil:
		d.addFault(n.Line, pathOrFile(path), "%s", printable(err.Error(), 200))
	}
}

// requireKind returns true if node n is of the kind and, where tags are given, has one of them. Otherwise it
// reports that n must be want, which describes the kind in words, and returns false. The fault never shows
// the value, which may be a secret.
func (d *decoder) requireKind(n *yaml.Node, path string, kind yaml.Kind, want string, tags ...string) bool {
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
	if want == "text" && n.Kind == yaml.ScalarNode {
		hint = ": put it in quotes"
	}
	d.addFault(n.Line, pathOrFile(path), "must be %s, not %s%s", want, describe(n), hint)
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

// describeJSON returns the words of describe for jsonValue, which is the field Value of a
// json.UnmarshalTypeError: "number", "number 300", "bool", "array", "object" or "string".
func describeJSON(jsonValue string) string {
	kind, _, _ := strings.Cut(jsonValue, " ")
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

// runChecker calls v.Check if v, which was read from node n, is a Checker. It adds each report of Check as a
// fault at the line of the part that the report is about. It drops reports about parts that decoding has
// already found wrong: they are zero, so Check would complain about a value that nobody wrote.
func (d *decoder) runChecker(n *yaml.Node, path string, v reflect.Value) {
	checker, ok := v.Addr().Interface().(Checker)
	if !ok {
		return
	}
	// Check may report one path several times, so its own reports do not count as found before.
	foundBefore := d.faultPaths[:len(d.faultPaths):len(d.faultPaths)]
	checker.Check(func(relative, format string, args ...any) {
		line, canonical := locate(n, relative)
		full := joinPath(path, canonical)
		if slices.ContainsFunc(foundBefore, func(bad string) bool { return isWithin(full, bad) }) {
			return
		}
		d.addFault(line, full, "%s", fmt.Sprintf(format, args...))
	})
}

// isWithin reports whether path is parent or names a part of parent.
func isWithin(path, parent string) bool {
	return path == parent || strings.HasPrefix(path, parent+".") || strings.HasPrefix(path, parent+"[")
}

// pathStep matches one part of a path: a key, or an index in brackets.
var pathStep = regexp.MustCompile(`[^.\[\]]+|\[\d+\]`)

// locate follows the path sub, which a Checker reported, from node n down. It returns the line of the part
// that sub names. If the file lacks that part, it returns the line of the last part on the way that exists.
// canonical is sub in the form that faults use: an index is written [0], also where a Checker writes .0.
func locate(n *yaml.Node, sub string) (line int, canonical string) {
	line = n.Line
	steps := pathStep.FindAllString(sub, -1)
	for i, step := range steps {
		next, nextLine := childAt(n, step)
		if next == nil {
			return line, joinPath(canonical, strings.Join(steps[i:], "."))
		}
		if n.Kind == yaml.SequenceNode {
			step = "[" + strings.Trim(step, "[]") + "]"
		}
		n, line, canonical = next, nextLine, joinPath(canonical, step)
	}
	return line, canonical
}

// childAt returns the child of node n that one step of a path names: the element with that index, or the
// value of that key. It also returns the line of the element or key. The node is nil if there is no such
// child.
func childAt(n *yaml.Node, step string) (*yaml.Node, int) {
	if n.Kind == yaml.SequenceNode {
		i, err := strconv.Atoi(strings.Trim(step, "[]"))
		if err != nil || i < 0 || i >= len(n.Content) {
			return nil, 0
		}
		return n.Content[i], n.Content[i].Line
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == step {
			return n.Content[i+1], n.Content[i].Line
		}
	}
	return nil, 0
}

// plainKey is the form of a key that can be shown in a path as it is.
var plainKey = ascii.Form{First: ascii.Of("A-Za-z0-9_./-"), Inner: ascii.Of("A-Za-z0-9_./-"), Max: 60}

// joinKey appends a key of the file to a path.
func joinKey(path, key string) string {
	if !plainKey.Matches(key) {
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
