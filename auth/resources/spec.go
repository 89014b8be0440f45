package resources

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/fault"
)

// decodeSpec decodes a spec strictly. It returns all errors at once, each with its path: unknown keys, and
// whatever the Check method of into's type refuses.
func decodeSpec(r authrpc.Resource, into any) error {
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
	return fault.Wrap(err, fault.Invalid, "resources.Apply", strings.Join(lines, "\n"),
		"correct the "+r.Kind+", then apply it again")
}

// document makes a document. Encoding spec and status fails only if their types cannot be encoded at all.
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

// oneDocument turns the result of reading one record into a document.
func oneDocument[T any](
	got T, err error, document func(T) (authrpc.Resource, error),
) (authrpc.Resource, error) {
	if err != nil {
		return authrpc.Resource{}, err
	}
	return document(got)
}

// documents turns the result of listing records into documents and the position of the next page.
func documents[T any](
	got state.Listing[T], err error, document func(state.Stored[T]) (authrpc.Resource, error),
) ([]authrpc.Resource, string, error) {
	if err != nil {
		return nil, "", err
	}
	out := make([]authrpc.Resource, 0, len(got.Items))
	for _, item := range got.Items {
		r, err := document(item)
		if err != nil {
			return nil, "", err
		}
		out = append(out, r)
	}
	return slices.Clip(out), got.Next, nil
}

// invalidNameFault is the error for a document whose name cannot be used.
func invalidNameFault(kind string, err error) error {
	return fault.Wrap(err, fault.Invalid, "resources.Apply", "metadata.name: "+err.Error(),
		"choose another name for the "+kind)
}
