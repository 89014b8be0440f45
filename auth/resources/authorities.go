package resources

import (
	"context"
	"encoding/json"

	"github.com/threshold-access/threshold/auth/authorities"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	signed "github.com/threshold-access/threshold/internal/rules"
)

// AuthoritiesName is the name of the only document of its kind.
const AuthoritiesName = "cluster"

// Authorities changes the keys that verifiers trust. authorities.Service implements it.
type Authorities interface {
	Current(ctx context.Context) (signed.Revision, signed.Authorities, error)
	Pending(ctx context.Context) (authorities.Request, bool, error)
	Prepare(
		ctx context.Context, names []string, dropOld bool, events ...audit.Event,
	) (authorities.Request, error)
	SignHere(r authorities.Request) (authorities.Answer, bool, error)
	Apply(ctx context.Context, a authorities.Answer, events ...audit.Event) (signed.Revision, error)
}

// authoritiesKind shows the keys that verifiers trust, and changes them in two steps: a spec with replace
// makes a request for the root, which the status then has; a spec with answer applies what the root has
// signed.
type authoritiesKind struct{ authorities Authorities }

// authoritiesSpec is what an administrator asks for. It is empty in a document that is shown.
type authoritiesSpec struct {
	Replace []string `json:"replace,omitempty"  yaml:"replace"`
	DropOld bool     `json:"drop_old,omitempty" yaml:"drop_old"`
	Answer  string   `json:"answer,omitempty"   yaml:"answer"` // the JSON that threshold root sign wrote
}

// Check implements config.Checker.
func (s authoritiesSpec) Check(report func(path, format string, args ...any)) {
	switch {
	case s.Answer == "" && len(s.Replace) == 0:
		report("", "it has neither replace nor answer")
	case s.Answer != "" && (len(s.Replace) > 0 || s.DropOld):
		report("answer", "it cannot stand beside replace or drop_old")
	}
}

// authoritiesStatus has the keys, and the request that waits for the root.
type authoritiesStatus struct {
	Revision string            `json:"revision"`
	Keys     []authorityStatus `json:"keys"`
	Request  json.RawMessage   `json:"request,omitempty"`
}

// authorityStatus is one key.
type authorityStatus struct {
	Authority  signed.Authority `json:"authority"`
	Generation int              `json:"generation"`
	State      signed.State     `json:"state"`
	ID         string           `json:"id"`
}

// shown is a document with its spec and status.
type shownAuthorities struct {
	spec   authoritiesSpec
	epoch  uint64
	status any
}

func (authoritiesKind) document(s shownAuthorities) (authrpc.Resource, error) {
	return document(access.Authorities.Singular(), AuthoritiesName, s.epoch, s.spec, s.status)
}

// current returns the document with what is in force, and with the request that waits.
func (k authoritiesKind) current(ctx context.Context) (shownAuthorities, error) {
	revision, body, err := k.authorities.Current(ctx)
	if err != nil {
		return shownAuthorities{}, err
	}
	status := authoritiesStatus{Revision: revision.String()}
	for _, key := range body.Keys {
		status.Keys = append(status.Keys, authorityStatus{key.Authority, key.Generation, key.State, key.ID})
	}
	request, waits, err := k.authorities.Pending(ctx)
	if err == nil && waits {
		status.Request, err = json.Marshal(request)
	}
	return shownAuthorities{epoch: revision.Epoch, status: status}, err
}

func (k authoritiesKind) get(ctx context.Context, name string) (authrpc.Resource, error) {
	if name != AuthoritiesName {
		return authrpc.Resource{}, authoritiesUnknown.New("resources", fault.Args{
			"name":  name,
			"known": AuthoritiesName,
		})
	}
	now, err := k.current(ctx)
	return oneDocument(now, err, k.document)
}

// list returns the one document, which is the whole first page.
func (k authoritiesKind) list(ctx context.Context, p state.Page) ([]authrpc.Resource, string, error) {
	if p.After >= AuthoritiesName {
		return nil, "", nil
	}
	doc, err := k.get(ctx, AuthoritiesName)
	if err != nil {
		return nil, "", err
	}
	return []authrpc.Resource{doc}, "", nil
}

// apply makes a request for the root, or applies its answer. There is no check of what the caller gains: only
// the root makes a key trusted.
func (k authoritiesKind) apply(
	ctx context.Context, by caller, doc authrpc.Resource,
) (out authrpc.ApplyResourceResponse, err error) {
	if _, err := k.get(ctx, doc.Metadata.Name); err != nil {
		return out, err
	}
	var spec authoritiesSpec
	if err := decodeSpec(doc, &spec); err != nil {
		return out, err
	}
	old, err := k.current(ctx)
	if err != nil {
		return out, err
	}
	if err := checkRevision(doc.Metadata.Revision, old.epoch); err != nil {
		return out, err
	}
	e, err := changeEvent(by, access.Authorities, &old, shownAuthorities{spec: spec}, k.document)
	if err != nil {
		return out, err
	}
	if spec.Answer != "" {
		err = k.applyAnswer(ctx, spec.Answer, e)
	} else {
		err = k.prepare(ctx, spec, e)
	}
	if err != nil {
		return out, err
	}
	out.Resource, err = k.get(ctx, AuthoritiesName)
	return out, err
}

// prepare makes the request. A cluster that keeps its root key signs it at once.
func (k authoritiesKind) prepare(ctx context.Context, spec authoritiesSpec, e audit.Event) error {
	request, err := k.authorities.Prepare(ctx, spec.Replace, spec.DropOld, e)
	if err != nil {
		return err
	}
	answer, signedHere, err := k.authorities.SignHere(request)
	if err != nil || !signedHere {
		return err
	}
	_, err = k.authorities.Apply(ctx, answer)
	return err
}

func (k authoritiesKind) applyAnswer(ctx context.Context, text string, e audit.Event) error {
	answer, err := authorities.ReadAnswer([]byte(text))
	if err != nil {
		return err
	}
	_, err = k.authorities.Apply(ctx, answer, e)
	return err
}

// remove is refused: the authorities are always there.
func (k authoritiesKind) remove(context.Context, caller, string) error {
	return authoritiesNotRemovable.New("resources.Remove")
}
