package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// toJSON returns the JSON form of the tree below n, with the keys in their order. It reports what has no JSON
// form, such as infinity, and then returns false.
func (d *decoder) toJSON(n *yaml.Node, path string) (json.RawMessage, bool) {
	if isNull(n) {
		d.addFault(n.Line, pathOrFile(path), "has no value: give one, or remove the key")
		return nil, false
	}
	switch n.Kind {
	case yaml.MappingNode:
		return d.objectToJSON(n, path)
	case yaml.SequenceNode:
		return d.arrayToJSON(n, path)
	}
	v, err := scalarValue(n)
	if err != nil {
		d.addFault(n.Line, pathOrFile(path), "%s is out of range", quoted(n.Value))
		return nil, false
	}
	b, err := json.Marshal(v)
	if err != nil { // infinity or not a number
		d.addFault(n.Line, pathOrFile(path), "%s is out of range", quoted(n.Value))
		return nil, false
	}
	return b, true
}

// objectToJSON is toJSON for a mapping. After a fault it goes on with the next key, to report all faults.
func (d *decoder) objectToJSON(n *yaml.Node, path string) (json.RawMessage, bool) {
	out, valid := bytes.NewBufferString("{"), true
	for i := 0; i+1 < len(n.Content); i += 2 {
		if i > 0 {
			out.WriteByte(',')
		}
		key, _ := json.Marshal(n.Content[i].Value) // text always has a JSON form
		val, ok := d.toJSON(n.Content[i+1], joinKey(path, n.Content[i].Value))
		valid = valid && ok
		out.Write(key)
		out.WriteByte(':')
		out.Write(val)
	}
	out.WriteByte('}')
	return out.Bytes(), valid
}

// arrayToJSON is toJSON for a sequence. After a fault it goes on with the next element, to report all faults.
func (d *decoder) arrayToJSON(n *yaml.Node, path string) (json.RawMessage, bool) {
	out, valid := bytes.NewBufferString("["), true
	for i, item := range n.Content {
		if i > 0 {
			out.WriteByte(',')
		}
		val, ok := d.toJSON(item, fmt.Sprintf("%s[%d]", path, i))
		valid = valid && ok
		out.Write(val)
	}
	out.WriteByte(']')
	return out.Bytes(), valid
}

// scalarValue returns a scalar as the Go value with the same JSON form.
func scalarValue(n *yaml.Node) (any, error) {
	switch n.Tag {
	case "!!bool":
		return n.Value[0] == 't' || n.Value[0] == 'T', nil
	case "!!int":
		if x, err := strconv.ParseInt(n.Value, 0, 64); err == nil {
			return x, nil
		}
		return strconv.ParseUint(n.Value, 0, 64)
	case "!!float":
		return strconv.ParseFloat(n.Value, 64)
	}
	return n.Value, nil
}
