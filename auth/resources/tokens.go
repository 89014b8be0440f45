package resources

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	events "github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
)

// tokenKind shows join tokens. The secret of a token is only in the answer to the apply that created it.
type tokenKind struct {
	tokens Tokens
	join   TokenCreator
	now    func() time.Time
}

// tokenSpec is a join token as an administrator asks for it.
type tokenSpec struct {
	Kind    identity.Kind   `json:"kind"              config:"required"`
	TTL     access.Duration `json:"ttl,omitzero"`
	Labels  identity.Labels `json:"labels,omitempty"`  // given to the machine, whatever it asks for
	Machine string          `json:"machine,omitempty"` // name of the machine; empty: the one it asks for
}

// request is the token as auth/join creates it; name and author are not in the spec.
func (s tokenSpec) request() join.TokenRequest {
	return join.TokenRequest{Kind: s.Kind, TTL: time.Duration(s.TTL), Labels: s.Labels, Machine: s.Machine}
}

// Check implements config.Checker.
func (s tokenSpec) Check(report func(path, format string, args ...any)) {
	join.CheckTokenRequest(s.request(), report)
}

type tokenStatus struct {
	State   string             `json:"state"` // ready, used or expired
	By      string             `json:"by"`
	Expires time.Time          `json:"expires"`
	UsedBy  identity.MachineID `json:"used_by,omitempty"`
}

// document derives the state of the token from its record and the time.
func (k tokenKind) document(t state.Stored[state.Token]) (authrpc.Resource, error) {
	v := t.Value
	status := tokenStatus{State: "ready", By: v.By, Expires: v.Expires, UsedBy: v.UsedBy}
	switch {
	case !v.Used.IsZero():
		status.State = "used"
	case !k.now().Before(v.Expires):
		status.State = "expired"
	}
	spec := tokenSpec{v.Kind, access.Duration(v.Expires.Sub(v.Created)), v.Labels, v.Machine}
	return document("token", t.Key, t.Revision, spec, status)
}

func (k tokenKind) get(ctx context.Context, name string) (authrpc.Resource, error) {
	got, err := k.tokens.Token(ctx, name)
	return oneDocument(got, err, k.document)
}

func (k tokenKind) list(ctx context.Context, p state.Page) ([]authrpc.Resource, string, error) {
	got, err := k.tokens.ListTokens(ctx, p)
	return documents(got, err, k.document)
}

// apply creates a token. A token is never changed.
func (k tokenKind) apply(
	ctx context.Context, by caller, r authrpc.Resource,
) (out authrpc.ApplyResourceResponse, err error) {
	if r.Metadata.Name != "" {
		if err := identity.CheckWord("token", r.Metadata.Name); err != nil {
			return out, invalidNameFault("token", err)
		}
	}
	var spec tokenSpec
	if err := decodeSpec(r, &spec); err != nil {
		return out, err
	}
	w := spec.request()
	w.Name, w.By = r.Metadata.Name, by.who
	secret, stored, err := k.join.Create(ctx, w)
	if err != nil {
		return out, err
	}
	out.Created, out.Secret = true, secret.String()
	out.Note = "this token is shown only once; it admits one machine until " +
		stored.Value.Expires.Format(time.RFC3339)
	out.Resource, err = k.document(stored)
	return out, err
}

// remove ends a token. A machine that joined with it stays.
func (k tokenKind) remove(ctx context.Context, by caller, name string) error {
	t, err := k.tokens.Token(ctx, name)
	if err != nil {
		return err
	}
	return k.tokens.RemoveToken(ctx, t, by.event(events.ResourceRemoved, access.Tokens, name))
}
