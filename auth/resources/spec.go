package resources

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/fault"
)

// readSpec reads a spec strictly: unknown keys and what its type's Check refuses are faults, all told at
// once, each with its path.
func readSpec(r authrpc.Resource, into any) error {
	spec := r.Spec
	if len(spec) == 0 {
		spec = json.RawMessage("{}")
	}
	err := config.Decode("spec", spec, into) // JSON is YAML
	var fs config.Faults
	if !errors.As(err, &fs) {
		return err
	}
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = "spec: " + f.Msg
	}
	return fault.Wrap(
		err,
		fault.Invalid,
		"resources.Apply",
		strings.Join(lines, "\n"),
		"correct the "+r.Kind+", then apply it again",
	)
}

// document puts a resource together. spec and status are ours, so encoding them cannot fail but for a defect.
func document(kind, name string, revision uint64, spec, status any) (authrpc.Resource, error) {
	r := authrpc.Resource{
		Kind:     kind,
		Version:  Version,
		Metadata: authrpc.Metadata{Name: name, Revision: revision},
	}
	var err error
	if r.Spec, err = json.Marshal(spec); err != nil {
		return r, err
	}
	if status != nil {
		r.Status, err = json.Marshal(status)
	}
	return r, err
}

// needName refuses a document without a usable name.
func invalidName(kind string, err error) error {
	return fault.Wrap(
		err,
		fault.Invalid,
		"resources.Apply",
		"metadata.name: "+err.Error(),
		"give the "+kind+" a plain name",
	)
}
