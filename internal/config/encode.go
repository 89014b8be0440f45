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
)

// Encode writes v as YAML: fields in the order of the struct, under the names that Decode reads, map keys
// sorted, durations as "8h".
func Encode(into io.Writer, v any) error { return EncodeAll(into, v) }

// EncodeAll writes each value as one document of a stream.
func EncodeAll(into io.Writer, values ...any) error {
	enc := yaml.NewEncoder(into)
	enc.SetIndent(2)
	for _, v := range values {
		n, err := encode(reflect.ValueOf(v))
		if err != nil {
			return fmt.Errorf("encode yaml: %w", err)
		}
		if err := enc.Encode(n); err != nil {
			return fmt.Errorf("encode yaml: %w", err)
		}
	}
	return enc.Close()
}

// encode returns the node for a value. A value with a text or JSON form of its own is written in it.
func encode(v reflect.Value) (*yaml.Node, error) {
	if !v.IsValid() || (v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface) && v.IsNil() {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
	}
	switch x := v.Interface().(type) {
	case time.Duration:
		return textNode(shortDuration(x)), nil
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
		return fromJSON(b)
	case []byte:
		return textNode(base64.StdEncoding.EncodeToString(x)), nil
	case Strings:
		if len(x) == 1 {
			return textNode(x[0]), nil
		}
	}
	return encodeKind(v)
}

// encodeKind returns the node for a value without a form of its own.
func encodeKind(v reflect.Value) (*yaml.Node, error) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return encode(v.Elem())
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

func encodeStruct(v reflect.Value) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, f := range fieldsOf(v.Type()) {
		fv := v.FieldByIndex(f.index)
		if f.omitEmpty && isEmpty(fv) {
			continue
		}
		val, err := encode(fv)
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

// encodeMap sorts the keys, so that the output does not depend on the order of the map.
func encodeMap(v reflect.Value) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	keys := v.MapKeys()
	slices.SortFunc(
		keys,
		func(a, b reflect.Value) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) },
	)
	for _, k := range keys {
		val, err := encode(v.MapIndex(k))
		if err != nil {
			return nil, fmt.Errorf("%v: %w", k, err)
		}
		n.Content = append(n.Content, textNode(fmt.Sprint(k)), val)
	}
	return n, nil
}

func encodeList(v reflect.Value) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	plain := true
	for i := range v.Len() {
		item, err := encode(v.Index(i))
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		plain = plain && item.Kind == yaml.ScalarNode
		n.Content = append(n.Content, item)
	}
	if plain { // [a, b] on one line is easier to read
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

// fromJSON encodes a value that has only a JSON form, and keeps the order of its keys.
func fromJSON(b []byte) (*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) == 0 {
		return encode(reflect.Value{})
	}
	blockStyle(doc.Content[0])
	return doc.Content[0], nil
}

// blockStyle gives a tree of JSON the style that encode uses: lists of scalars on one line, everything else
// in blocks.
func blockStyle(n *yaml.Node) {
	n.Style = 0
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!str":
		*n = *textNode(n.Value)
	case n.Kind == yaml.SequenceNode &&
		!slices.ContainsFunc(n.Content, func(c *yaml.Node) bool { return c.Kind != yaml.ScalarNode }):
		n.Style = yaml.FlowStyle
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}

// shortDuration drops the zero units of Duration.String: 8h0m0s is 8h.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
