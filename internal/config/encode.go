package config

import (
	"encoding"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/threshold-access/threshold/internal/fault"
)

// Encode writes v as YAML: fields in the order of the struct, under the names that Decode reads, map keys
// sorted, durations as "8h".
func Encode(into io.Writer, v any) error { return EncodeAll(into, v) }

// EncodeAll writes each value as one document of a stream.
func EncodeAll(into io.Writer, values ...any) error {
	enc := yaml.NewEncoder(into)
	enc.SetIndent(2)
	for _, v := range values {
		n, err := encodeValue(reflect.ValueOf(v))
		if err != nil {
			return fmt.Errorf("encode yaml: %w", err)
		}
		if err := enc.Encode(n); err != nil {
			return fmt.Errorf("encode yaml: %w", err)
		}
	}
	return enc.Close()
}

// encodeValue returns the node for v, in the form that decodeValue reads. A type with a text or JSON form of
// its own is written in that form. A nil pointer or interface is null.
func encodeValue(v reflect.Value) (*yaml.Node, error) {
	if !v.IsValid() || (v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface) && v.IsNil() {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
	}
	switch x := v.Interface().(type) {
	case time.Duration:
		return textNode(fault.FormatDuration(x)), nil
	case yaml.Node:
		return &x, nil
	case encoding.TextMarshaler:
		b, err := x.MarshalText()
		return textNode(string(b)), err
	case json.Marshaler:
		b, err := x.MarshalJSON()
		if err != nil {
			return nil, err
		}
		return nodeFromJSON(b)
	case []byte:
		return textNode(base64.StdEncoding.EncodeToString(x)), nil
	case Strings:
		if len(x) == 1 {
			return textNode(x[0]), nil
		}
	}
	return encodeByKind(v)
}

// encodeByKind returns the node for v by reflection. The error names a type that has no YAML form.
func encodeByKind(v reflect.Value) (*yaml.Node, error) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return encodeValue(v.Elem())
	case reflect.Struct:
		return encodeStruct(v)
	case reflect.Map:
		return encodeMap(v)
	case reflect.Slice, reflect.Array:
		return encodeList(v)
	case reflect.String:
		return textNode(v.String()), nil
	case reflect.Bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v.Bool())}, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: fmt.Sprint(v.Interface())}, nil
	case reflect.Float32, reflect.Float64:
		n := &yaml.Node{}
		return n, n.Encode(v.Float())
	}
	return nil, fmt.Errorf("%s has no YAML form", v.Type())
}

// encodeStruct returns a mapping with the fields of v in their order. It leaves out the fields that have the
// option omitempty and are empty.
func encodeStruct(v reflect.Value) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, f := range fieldsOf(v.Type()) {
		fieldValue := v.FieldByIndex(f.index)
		if f.omitEmpty && isEmpty(fieldValue) {
			continue
		}
		val, err := encodeValue(fieldValue)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		n.Content = append(n.Content, textNode(f.name), val)
	}
	return n, nil
}

// isEmpty reports whether omitempty leaves the value out.
func isEmpty(v reflect.Value) bool {
	if v.Kind() == reflect.Map || v.Kind() == reflect.Slice {
		return v.Len() == 0
	}
	return v.IsZero()
}

// encodeMap returns a mapping with the entries of v, sorted by key: the same value always gives the same
// file.
func encodeMap(v reflect.Value) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	keys := v.MapKeys()
	byText := func(a, b reflect.Value) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) }
	slices.SortFunc(keys, byText)
	for _, k := range keys {
		val, err := encodeValue(v.MapIndex(k))
		if err != nil {
			return nil, fmt.Errorf("%v: %w", k, err)
		}
		n.Content = append(n.Content, textNode(fmt.Sprint(k)), val)
	}
	return n, nil
}

// encodeList returns a sequence with the elements of v. If all are scalars it is written on one line, as
// [a, b], which is easier to read.
func encodeList(v reflect.Value) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	onlyScalars := true
	for i := range v.Len() {
		item, err := encodeValue(v.Index(i))
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		onlyScalars = onlyScalars && item.Kind == yaml.ScalarNode
		n.Content = append(n.Content, item)
	}
	if onlyScalars {
		n.Style = yaml.FlowStyle
	}
	return n, nil
}

// textNode leaves quoting to the yaml package, which quotes what YAML 1.1 or 1.2 would read back as another
// type.
func textNode(s string) *yaml.Node {
	n := &yaml.Node{}
	if err := n.Encode(s); err != nil {
		n.SetString(s)
	}
	return n
}

// nodeFromJSON returns the node for the JSON text b, with the keys in their order. Every JSON text is YAML,
// so the YAML parser reads it.
func nodeFromJSON(b []byte) (*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) == 0 {
		return encodeValue(reflect.Value{})
	}
	blockStyle(doc.Content[0])
	return doc.Content[0], nil
}

// blockStyle changes the tree below n, which was parsed from JSON, from the style of JSON to the style of
// this package: lists of scalars on one line, everything else in blocks.
func blockStyle(n *yaml.Node) {
	n.Style = 0
	isNested := func(c *yaml.Node) bool { return c.Kind != yaml.ScalarNode }
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!str":
		*n = *textNode(n.Value)
	case n.Kind == yaml.SequenceNode && !slices.ContainsFunc(n.Content, isNested):
		n.Style = yaml.FlowStyle
	}
	for _, child := range n.Content {
		blockStyle(child)
	}
}
