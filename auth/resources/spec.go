package resources

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/fault"
)

// decodeSpec decodes the spec of a document into the struct that into points to. It returns all errors at
// once as fault Invalid, each with its path: unknown keys, and whatever the Check method of into's type
// refuses. A missing spec is an empty one.
func decodeSpec(doc authrpc.Resource, into any) error {
	spec := doc.Spec
	if len(spec) == 0 {
		spec = json.RawMessage("{}")
	}
	err := config.Decode("spec", spec, into) // JSON is YAML
	var faults config.Faults
	if !errors.As(err, &faults) {
		return err
	}
	lines := make([]string, len(faults))
	for i, f := range faults {
		lines[i] = f.Msg
	}
	return specFault(doc, err, lines)
}

// specFault is fault Invalid for a spec with these faults, each with its path. cause is only for the log.
func specFault(doc authrpc.Resource, cause error, faults []string) error {
	invalid := specInvalid.New("resources.Apply", fault.Args{"kind": doc.Kind}).Because(cause)
	invalid.Msg = "spec: " + strings.Join(faults, "\nspec: ") // one line for each
	return invalid
}

// document makes a document from its parts. A nil status means that its kind has none. It fails only if the
// types of spec and status cannot be encoded at all.
func document(kind, name string, revision uint64, spec, status any) (authrpc.Resource, error) {
	doc := authrpc.Resource{
		Kind:     kind,
		Version:  Version,
		Metadata: authrpc.Metadata{Name: name, Revision: revision},
	}
	var err error
	if doc.Spec, err = json.Marshal(spec); err != nil {
		return doc, err
	}
	if status != nil {
		doc.Status, err = json.Marshal(status)
	}
	return doc, err
}

// oneDocument turns the result of reading one record, which may be an error, into a document.
func oneDocument[T any](
	got T, err error, toDocument func(T) (authrpc.Resource, error),
) (authrpc.Resource, error) {
	if err != nil {
		return authrpc.Resource{}, err
	}
	return toDocument(got)
}

// documents turns the result of listing records, which may be an error, into documents. next is the After of
// the next page, and "" at the end.
func documents[T any](
	got state.Listing[T], err error, toDocument func(state.Stored[T]) (authrpc.Resource, error),
) (docs []authrpc.Resource, next string, _ error) {
	if err != nil {
		return nil, "", err
	}
	docs = make([]authrpc.Resource, 0, len(got.Items))
	for _, item := range got.Items {
		doc, err := toDocument(item)
		if err != nil {
			return nil, "", err
		}
		docs = append(docs, doc)
	}
	return docs, got.Next, nil
}

// invalidNameFault is the error for a document whose name cannot be used.
func invalidNameFault(kind string, err error) error {
	return documentNameInvalid.Wrap(err, "resources.Apply", fault.Args{"why": err.Error(), "kind": kind})
}
