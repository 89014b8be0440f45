// Package wire answers: may this program use a structure that a newer one wrote?
//
// Every structure that is stored or sent has a version and may have a list of critical fields: the names of
// fields that a reader must know to use the structure, as the critical extensions of X.509 or "crit" of JOSE
// (RFC 7515 section 4.1.11). A reader ignores a field that it does not know unless the list names it. So a
// format can grow by fields that may be ignored, and by fields that may not, and old readers tell them apart.
package wire

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/threshold-access/threshold/internal/fault"
)

// maxCriticalBytes bounds the JSON of a list of critical fields. A structure has fewer fields than that.
const maxCriticalBytes = 16 << 10

// Critical is the list of critical fields in a structure. As JSON it is bounded, so that a stranger cannot
// make a reader allocate much more than was sent.
type Critical []string

// UnmarshalJSON refuses a list that is longer than any structure needs.
func (c *Critical) UnmarshalJSON(b []byte) error {
	if len(b) > maxCriticalBytes {
		return fmt.Errorf("the list of critical fields has %d bytes, more than %d", len(b), maxCriticalBytes)
	}
	return json.Unmarshal(b, (*[]string)(c))
}

// Check returns nil if a program may use a structure: it knows the version v of it, because v is between 1
// and newest, and it knows every field that the structure calls critical. Otherwise it returns a fault of
// kind Invalid. what names the structure in the message, as "the head of the rules". known is the names of
// the fields that the program reads; see Fields.
func Check(what string, v, newest int, critical []string, known ...string) error {
	if v < 1 || v > newest {
		return versionUnknown.New("wire.Check", fault.Args{"what": what, "version": v, "newest": newest})
	}
	if err := CheckCritical(critical, known...); err != nil {
		return structureTooNew.Wrap(err, "wire.Check", fault.Args{
			"what":    what,
			"version": v,
			"why":     fault.Message(err),
		})
	}
	return nil
}

// CheckCritical returns nil if every name in the list of critical fields is known, and otherwise a fault of
// kind Invalid that has the first name that is not.
func CheckCritical(names []string, known ...string) error {
	for _, name := range names {
		if !slices.Contains(known, name) {
			return fieldUnknown.New("wire.CheckCritical", fault.Args{"field": name})
		}
	}
	return nil
}

// Fields returns the names of the JSON fields that a struct like v has, in the order of their declaration. A
// field inside another one is named with its path, as "options.cert_ttl". Lists do not add to a path. The
// type of v must not contain itself.
func Fields(v any) []string {
	return appendFields(nil, "", reflect.ValueOf(v), true)
}

// FieldsIn is Fields for those fields alone that are not empty in v. In a list, a field counts if it is not
// empty in any element. The names are sorted.
func FieldsIn(v any) []string {
	names := appendFields(nil, "", reflect.ValueOf(v), false)
	slices.Sort(names)
	return slices.Compact(names)
}

// appendFields appends the names of the fields under path. With all it looks at the type of v, and v may be
// invalid or nil inside; otherwise it looks at the values.
func appendFields(names []string, path string, v reflect.Value, all bool) []string {
	switch {
	case isLeaf(v.Type()):
		return names
	case v.Kind() == reflect.Pointer:
		if all {
			return appendFields(names, path, reflect.Zero(v.Type().Elem()), all)
		}
		if !v.IsNil() {
			return appendFields(names, path, v.Elem(), all)
		}
	case v.Kind() == reflect.Slice && all:
		return appendFields(names, path, reflect.Zero(v.Type().Elem()), all)
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			names = appendFields(names, path, v.Index(i), all)
		}
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			names = appendField(names, path, v.Type().Field(i), v.Field(i), all)
		}
	}
	return names
}

// appendField appends the name of one field of a struct, and the names of what is inside it.
func appendField(
	names []string,
	path string,
	field reflect.StructField,
	v reflect.Value,
	all bool,
) []string {
	name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
	switch {
	case name == "-" || !field.IsExported() && !field.Anonymous:
		return names
	case name == "" && field.Anonymous: // its fields are fields of the outer struct
		return appendFields(names, path, v, all)
	case name == "":
		name = field.Name
	}
	if !all && v.IsZero() {
		return names
	}
	name = path + name
	return appendFields(append(names, name), name+".", v, all)
}

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// isLeaf reports whether values of the type have no fields in JSON: the type writes its JSON itself, or is
// neither a struct, nor a list of structs, nor a pointer to one.
func isLeaf(t reflect.Type) bool {
	writesItself := func(t reflect.Type) bool {
		return t.Implements(jsonMarshaler) || t.Implements(textMarshaler)
	}
	if writesItself(t) || writesItself(reflect.PointerTo(t)) {
		return true
	}
	switch t.Kind() {
	case reflect.Struct:
		return false
	case reflect.Slice, reflect.Pointer:
		return isLeaf(t.Elem())
	}
	return true
}

// Unmarshal decodes the JSON of a structure into v, a pointer to a struct, if the program may use it: see
// Check. It looks at version and critical fields first, because a newer version may have other types. what
// names the structure; known is Fields of the struct.
func Unmarshal(what string, b []byte, v any, newest int, known []string) error {
	var envelope struct {
		V        int      `json:"v"`
		Critical Critical `json:"critical"`
	}
	if err := json.Unmarshal(b, &envelope); err != nil {
		return fmt.Errorf("decode %s: %w", what, err)
	}
	if err := Check(what, envelope.V, newest, envelope.Critical, known...); err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %s: %w", what, err)
	}
	return nil
}
