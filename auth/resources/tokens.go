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

type tokenKind struct{ *Service }

// tokenSpec is a join token as it is asked for.
type tokenSpec struct {
	Kind    identity.Kind   `json:"kind"              config:"required"`
	TTL     access.Duration `json:"ttl,omitzero"`
	Labels  identity.Labels `json:"labels,omitempty"`  // the machine's, whatever it wishes
	Machine string          `json:"machine,omitempty"` // the name the machine gets; empty: what it wishes
}

func (s tokenSpec) wish() join.TokenRequest {
	return join.TokenRequest{Kind: s.Kind, TTL: time.Duration(s.TTL), Labels: s.Labels, Machine: s.Machine}
}

// Check implements config.Checker.
func (s tokenSpec) Check(report func(path, format string, args ...any)) {
	join.CheckTokenRequest(s.wish(), report)
}

type tokenStatus struct {
	State   string             `json:"state"` // ready, used or ended
	By      string             `json:"by"`
	Expires time.Time          `json:"expires"`
	UsedBy  identity.MachineID `json:"used_by,omitempty"`
}

func (k tokenKind) document(t state.Stored[state.Token]) (authrpc.Resource, error) {
	v := t.Value
	s := tokenStatus{State: "ready", By: v.By, Expires: v.Expires, UsedBy: v.UsedBy}
	switch {
	case !v.Used.IsZero():
		s.State = "used"
	case !k.cfg.Now().Before(v.Expires):
		s.State = "ended"
	}
	return document(
		"token",
		t.Key,
		t.Revision,
		tokenSpec{v.Kind, access.Duration(v.Expires.Sub(v.Created)), v.Labels, v.Machine},
		s,
	)
}

func (k tokenKind) get(ctx context.Context, name string) (authrpc.Resource, error) {
	got, err := k.cfg.State.Token(ctx, name)
	return oneDocument(got, err, k.document)
}

func (k tokenKind) list(ctx context.Context, p state.Page) ([]authrpc.Resource, string, error) {
	got, err := k.cfg.State.ListTokens(ctx, p)
	return documents(got, err, k.document)
}

// apply makes a token; a token is never changed.
func (k tokenKind) apply(
	ctx context.Context,
	by caller,
	r authrpc.Resource,
) (out authrpc.ApplyResourceResponse, err error) {
	if r.Metadata.Name != "" {
		if err := identity.CheckWord("token", r.Metadata.Name); err != nil {
			return out, invalidName("token", err)
		}
	}
	var spec tokenSpec
	if err := readSpec(r, &spec); err != nil {
		return out, err
	}
	w := spec.wish()
	w.Name, w.By = r.Metadata.Name, by.who
	secret, kept, err := k.cfg.Join.Create(ctx, w)
	if err != nil {
		return out, err
	}
	out.Created, out.Secret = true, secret.String()
	out.Note = "this token is shown once; it is good for one machine until " + kept.Value.Expires.Format(
		time.RFC3339,
	)
	out.Resource, err = k.document(kept)
	return out, err
}

func (k tokenKind) remove(ctx context.Context, by caller, name string) error {
	t, err := k.cfg.State.Token(ctx, name)
	if err != nil {
		return err
	}
	return k.cfg.State.Tokens.RemoveToken(ctx, t, by.event(events.ResourceRemoved, access.Tokens, name))
}
