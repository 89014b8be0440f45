// Package config answers: what does this file say, and what is wrong with it?
//
// One strict decoder reads every YAML file a person writes: the configuration of threshold and
// threshold-node, the bootstrap file, and the resources of "tsh apply -f". It accepts less than YAML allows:
// no aliases, anchors, merge keys or tags, no duplicate or unknown keys, no value left empty. Whatever is
// wrong is reported at once, each fault as file:line: message.
//
// Struct fields are named by their yaml tag, else their json tag, else their name in lower case. The tag
// config:"required" refuses a file without the key. A value that implements Checker is asked after it is
// read, so that a rule about meaning gets its line too.
package config

import (
	"encoding/json"
	"fmt"
	"reflect"

	"go.yaml.in/yaml/v3"
)

const (
	// MaxBytes bounds a file.
	MaxBytes = 1 << 20
	// MaxDepth bounds how deep lists and mappings may nest.
	MaxDepth = 32
	// maxFaults bounds how many faults one report lists.
	maxFaults = 100
)

// Checker is a value with rules that its type cannot say. Check is called once on each such value after it
// was read, also when parts of it had faults. The path is relative to the value, as "allow[0].logins" or ""
// for the value itself; a report about a part that has a fault already is dropped.
type Checker interface {
	Check(report func(path, format string, args ...any))
}

// Decode reads one YAML document into the struct that into points to. The error is a Faults. Name is what
// faults call the file.
func Decode(name string, data []byte, into any) error {
	d := &decoder{file: name}
	docs := d.parse(data)
	if len(docs) > 1 {
		d.addFault(docs[1].Line, "", "a second document begins here, and this file holds only one")
	}
	root := emptyMapping()
	if len(docs) > 0 {
		root = docs[0]
	}
	if len(d.faults) == 0 {
		d.value(root, "", target(into))
	}
	return d.err()
}

// Metadata names a resource.
type Metadata struct {
	Name   string            `yaml:"name"               json:"name"               config:"required"`
	Labels map[string]string `yaml:"labels,omitempty"   json:"labels,omitempty"`
	// Revision is the one this document was made from; zero says nothing of it.
	Revision uint64 `yaml:"revision,omitempty" json:"revision,omitempty"`
}

// Document is one resource of a file: its header, and a spec that only its kind can read.
type Document struct {
	Kind     string
	Version  string
	Metadata Metadata
	Name     string // the file it came from
	Line     int    // where it begins there
	spec     *yaml.Node
}

type header struct {
	Kind     string    `yaml:"kind"     config:"required"`
	Version  string    `yaml:"version"  config:"required"`
	Metadata Metadata  `yaml:"metadata" config:"required"`
	Spec     yaml.Node `yaml:"spec"     config:"required"`
	Status   yaml.Node `yaml:"status"` // what is so, not what is asked for: read past, so that what was shown can be given back
}

// DecodeAll reads the headers of a file of one or more resources. Beside an error it also returns the
// documents whose header could be read, so that a caller may Join the faults of their specs and show a person
// everything at once; it must not use them otherwise.
func DecodeAll(name string, data []byte) ([]Document, error) {
	d := &decoder{file: name}
	roots := d.parse(data)
	if len(roots) == 0 && len(d.faults) == 0 {
		d.addFault(1, "", "the file holds no resource: it needs kind, version, metadata and spec")
	}
	var docs []Document
	for _, root := range roots {
		before := len(d.faults)
		var h header
		d.value(root, "", reflect.ValueOf(&h).Elem())
		if len(d.faults) > before {
			continue
		}
		docs = append(
			docs,
			Document{
				Kind:     h.Kind,
				Version:  h.Version,
				Metadata: h.Metadata,
				Name:     name,
				Line:     root.Line,
				spec:     &h.Spec,
			},
		)
	}
	return docs, d.err()
}

// Spec reads the document's spec into the struct that into points to. The error is a Faults.
func (doc Document) Spec(into any) error {
	d := &decoder{file: doc.Name}
	d.value(doc.specNode(), "spec", target(into))
	return d.err()
}

// SpecJSON is the document's spec as JSON, keys in their order, for a caller that only hands it on.
func (doc Document) SpecJSON() (json.RawMessage, error) {
	d := &decoder{file: doc.Name}
	b, _ := d.toJSON(doc.specNode(), "spec")
	if err := d.err(); err != nil {
		return nil, err
	}
	return b, nil
}

// specNode is the spec's node; a document made in code, not by DecodeAll, has an empty one.
func (doc Document) specNode() *yaml.Node {
	if doc.spec == nil {
		return emptyMapping()
	}
	return doc.spec
}

// Fault makes a fault at a place in the document, for a caller that finds one after decoding: an unknown
// kind, a name taken twice.
func (doc Document) Fault(format string, args ...any) Fault {
	return Fault{File: doc.Name, Line: doc.Line, Msg: fmt.Sprintf(format, args...)}
}

func emptyMapping() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: 1} }

// target panics unless into can be written to: that is our defect, no file can cause it.
func target(into any) reflect.Value {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		panic(fmt.Sprintf("config: cannot decode into %T: a pointer is needed", into))
	}
	return v.Elem()
}
