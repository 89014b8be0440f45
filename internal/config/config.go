// Package config answers: what does this file say, and what is wrong with it?
//
// One strict decoder reads every YAML file that a person writes: the configuration of threshold and
// threshold-node, the bootstrap file, and the resources of "tsh apply -f". It accepts less than YAML allows:
// no aliases, anchors, merge keys or tags, no duplicate or unknown keys, no empty values. It reports all
// faults at once, each as file:line: message.
//
// Struct fields are named by their yaml tag, else their json tag, else their name in lower case. The tag
// config:"required" refuses a file without the key. A value that implements Checker is checked after it was
// read, so that a rule about its meaning is reported with a line too.
package config

import (
	"encoding/json"
	"fmt"
	"reflect"

	"go.yaml.in/yaml/v3"
)

const (
	// MaxBytes bounds a file, in bytes.
	MaxBytes = 1 << 20
	// MaxDepth bounds how deep lists and mappings may nest.
	MaxDepth = 32
	// maxFaults bounds how many faults a report lists.
	maxFaults = 100
)

// Checker is a value with rules that its type cannot express. Check is called once on each such value after
// it was read, also when parts of it have faults. The path that it reports is relative to the value, as
// "allow[0].logins", or "" for the value itself. A report about a part that already has a fault is dropped.
type Checker interface {
	Check(report func(path, format string, args ...any))
}

// Decode reads data, a file of one YAML document, into the struct that into points to. name is the file's
// name in faults. The error is a Faults. A file without a document is read as an empty mapping, so that
// required keys are reported.
func Decode(name string, data []byte, into any) error {
	d := &decoder{file: name}
	docs := d.parse(data)
	if len(docs) > 1 {
		d.addFault(docs[1].Line, "", "a second document begins here, but this file may have only one")
	}
	root := emptyMapping()
	if len(docs) > 0 {
		root = docs[0]
	}
	if len(d.faults) == 0 {
		d.decodeValue(root, "", target(into))
	}
	return d.err()
}

// Metadata names a resource.
type Metadata struct {
	Name   string            `yaml:"name"               json:"name"               config:"required"`
	Labels map[string]string `yaml:"labels,omitempty"   json:"labels,omitempty"`
	// Revision is the revision that this document was made from; zero means any.
	Revision uint64 `yaml:"revision,omitempty" json:"revision,omitempty"`
}

// Document is one resource of a file: its header, and a spec that depends on its kind.
type Document struct {
	Kind     string
	Version  string
	Metadata Metadata
	Name     string // the file that it is in
	Line     int    // the line where it begins
	spec     *yaml.Node
}

// header is what every resource begins with.
type header struct {
	Kind     string    `yaml:"kind"     config:"required"`
	Version  string    `yaml:"version"  config:"required"`
	Metadata Metadata  `yaml:"metadata" config:"required"`
	Spec     yaml.Node `yaml:"spec"     config:"required"`
	// Status is accepted and ignored, so that the output of "tsh get" can be applied.
	Status yaml.Node `yaml:"status"`
}

// DecodeAll reads a file of one or more resources: the header of each, which says its kind, and not yet its
// spec, whose type depends on the kind. Document.Spec reads that.
//
// The error is a Faults. DecodeAll then returns the documents whose header is right as well. The caller may
// decode their specs only to Join those faults to the error, so that the author sees everything at once. It
// must not apply such documents.
func DecodeAll(name string, data []byte) ([]Document, error) {
	d := &decoder{file: name}
	roots := d.parse(data)
	if len(roots) == 0 && len(d.faults) == 0 {
		d.addFault(1, "", "the file holds no resource: it needs kind, version, metadata and spec")
	}
	var docs []Document
	for _, root := range roots {
		faultsBefore := len(d.faults)
		var h header
		d.decodeValue(root, "", reflect.ValueOf(&h).Elem())
		if len(d.faults) > faultsBefore {
			continue // this header has a fault; go on, to report those of the other documents too
		}
		docs = append(docs, Document{
			Kind:     h.Kind,
			Version:  h.Version,
			Metadata: h.Metadata,
			Name:     name,
			Line:     root.Line,
			spec:     &h.Spec,
		})
	}
	return docs, d.err()
}

// Spec reads the document's spec into the struct that into points to. The error is a Faults.
func (doc Document) Spec(into any) error {
	d := &decoder{file: doc.Name}
	d.decodeValue(doc.specNode(), "spec", target(into))
	return d.err()
}

// SpecJSON returns the document's spec as JSON, with the keys in their order, for a caller that passes it on.
func (doc Document) SpecJSON() (json.RawMessage, error) {
	d := &decoder{file: doc.Name}
	b, _ := d.toJSON(doc.specNode(), "spec")
	if err := d.err(); err != nil {
		return nil, err
	}
	return b, nil
}

// specNode returns the spec's node. A document that was not made by DecodeAll has an empty one.
func (doc Document) specNode() *yaml.Node {
	if doc.spec == nil {
		return emptyMapping()
	}
	return doc.spec
}

// Fault makes a fault at the document's line, for what a caller finds after decoding: an unknown kind, or a
// name that is used twice.
func (doc Document) Fault(format string, args ...any) Fault {
	return Fault{File: doc.Name, Line: doc.Line, Msg: fmt.Sprintf(format, args...)}
}

func emptyMapping() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: 1} }

// target returns the value that the pointer into points to. It panics if into is no pointer: that is a defect
// of ours, which no file can cause.
func target(into any) reflect.Value {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		panic(fmt.Sprintf("config: cannot decode into %T: a pointer is needed", into))
	}
	return v.Elem()
}
