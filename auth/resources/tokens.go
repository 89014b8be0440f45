package resources

import (
	"context"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
)

// tokenKind reads, creates and removes join tokens. The secret of a token is only in the answer to the apply
// that created it: the cluster stores its hash.
type tokenKind struct {
	tokens Tokens
	join   TokenCreator
	now    func() time.Time
}

// tokenSpec is a join token as an administrator asks for it.
type tokenSpec struct {
	Kind        identity.Kind   `json:"kind"              config:"required"`
	Uses        int             `json:"uses,omitempty"` // how many machines may join; zero means one
	TTL         access.Duration `json:"ttl,omitzero"`
	NamePattern string          `json:"name_pattern,omitempty"` // of the machine's name; empty: any
	Labels      identity.Labels `json:"labels,omitempty"`       // that the machine gets
	PublicNames []string        `json:"public_names,omitempty"` // that a proxy may have
}

// request is the token as auth/join creates it; name and author are not in the spec.
func (s tokenSpec) request() join.TokenRequest {
	return join.TokenRequest{
		Kind:        s.Kind,
		Uses:        s.Uses,
		TTL:         time.Duration(s.TTL),
		NamePattern: s.NamePattern,
		Labels:      s.Labels,
		PublicNames: s.PublicNames,
	}
}

// Check implements config.Checker. The rules are those of auth/join.
func (s tokenSpec) Check(report func(path, format string, args ...any)) {
	join.CheckTokenRequest(s.request(), report)
}

// tokenStatus is what the cluster knows of a token.
type tokenStatus struct {
	State   string                `json:"state"` // ready, used or expired
	By      string                `json:"by"`    // who created it
	Expires time.Time             `json:"expires"`
	Joined  []state.JoinedMachine `json:"joined,omitempty"` // who joined with it, and when
}

// document turns a stored token into a document. Its state follows from the record and the time: a token that
// is used up says so for as long as its record is kept.
func (k tokenKind) document(t state.Stored[state.Token]) (authrpc.Resource, error) {
	token := t.Value
	status := tokenStatus{State: "ready", By: token.By, Expires: token.Expires, Joined: token.Joined}
	switch {
	case token.UsedUp():
		status.State = "used"
	case !k.now().Before(token.Expires):
		status.State = "expired"
	}
	spec := tokenSpec{
		Kind:        token.Kind,
		Uses:        token.Uses,
		TTL:         access.Duration(token.Expires.Sub(token.Created)),
		NamePattern: token.NamePattern,
		Labels:      token.Labels,
		PublicNames: token.PublicNames,
	}
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

// apply creates a token and returns it with its secret, which nobody can read again. It never changes one: a
// name that is taken gets fault Conflict. An empty name means a random one.
func (k tokenKind) apply(
	ctx context.Context, by caller, doc authrpc.Resource,
) (out authrpc.ApplyResourceResponse, err error) {
	name := doc.Metadata.Name
	if name != "" {
		if err := identity.CheckWord("token", name); err != nil {
			return out, invalidNameFault("token", err)
		}
	}
	var spec tokenSpec
	if err := decodeSpec(doc, &spec); err != nil {
		return out, err
	}
	if err := by.checkToken(spec.Kind); err != nil {
		return out, err
	}
	// Create stores the audit event together with the token.
	request := spec.request()
	request.Name, request.By = name, by.who
	secret, stored, err := k.join.Create(ctx, request)
	if err != nil {
		return out, err
	}
	out.Created, out.Secret = true, secret.String()
	admits := "one machine"
	if uses := stored.Value.Uses; uses > 1 {
		admits = fmt.Sprintf("%d machines", uses)
	}
	out.Note = fmt.Sprintf("this token is shown only once; it admits %s until %s",
		admits, stored.Value.Expires.Format(time.RFC3339))
	out.Resource, err = k.document(stored)
	return out, err
}

// remove removes a token, so that no machine can join with it. A machine that joined with it stays.
func (k tokenKind) remove(ctx context.Context, by caller, name string) error {
	stored, err := k.tokens.Token(ctx, name)
	if err != nil {
		return err
	}
	e, err := removalEvent(by, access.Tokens, stored, k.document)
	if err != nil {
		return err
	}
	return k.tokens.RemoveToken(ctx, stored, e)
}
