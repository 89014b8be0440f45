// Package resources answers: which documents may be read and changed, and by whom?
//
// Roles, connectors, users, tokens, nodes and events are documents with one shape. Every call is decided by
// access.Decide first; every change is strict about what it reads, compares revisions where the caller names
// one, and is committed with its audit event. Refusals are events too.
//
// Nobody gains by a side door what they were not granted: who may change connectors, users or nodes but not
// roles can not give themselves or others more than they hold (gain.go).
package resources

import (
	"context"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/auth/audit"
	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	events "github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Version is the version of every kind's documents.
const Version = "v1"

// Config says what the desk needs; all of it is required.
type Config struct {
	State *state.State
	Vault *state.Vault
	Join  *join.Service
	Log   *audit.Log
	Now   func() time.Time
}

// Service serves documents. It is safe for concurrent use.
type Service struct {
	cfg   Config
	kinds map[access.Resource]kind
}

// kind is how one kind of document is read and changed. The caller was allowed to, by the rules, before any
// of it is called.
type kind interface {
	get(ctx context.Context, name string) (authrpc.Resource, error)
	list(ctx context.Context, p state.Page) (list []authrpc.Resource, next string, err error)
	apply(ctx context.Context, by caller, r authrpc.Resource) (authrpc.ApplyResourceResponse, error)
	remove(ctx context.Context, by caller, name string) error
}

// caller is who asks, under which rules.
type caller struct {
	who    identity.Identity
	policy access.Policy
	now    time.Time
}

// may asks the rules about another kind of document than the one at hand.
func (c caller) may(a access.Action, r access.Resource) bool {
	return access.Decide(c.policy, access.Request{Who: c.who, Action: a, Resource: r, Now: c.now}).Allow
}

// New makes a desk.
func New(cfg Config) *Service {
	d := &Service{cfg: cfg}
	d.kinds = map[access.Resource]kind{
		access.Roles: roleKind{
			d,
		}, access.Connectors: connectorKind{d}, access.Users: userKind{d}, access.Tokens: tokenKind{d}, access.Machines: machineKind{d},
		access.Events: eventKind{d},
	}
	return d
}

// singular is what a document's own kind field says.
var singular = map[access.Resource]string{
	access.Roles: "role", access.Connectors: "connector", access.Users: "user", access.Tokens: "token", access.Machines: "node", access.Events: "event",
}

func pluralOf(kind string) (access.Resource, error) {
	for p, s := range singular {
		if s == kind {
			return p, nil
		}
	}
	return "", unknownKind(kind)
}

func unknownKind(kind string) error {
	return fault.New(
		fault.Invalid,
		"resources",
		fmt.Sprintf("there is no kind of document %.40q", kind),
		"use one of: role, connector, user, token, node, event",
	)
}

// Get reads one document, or a page of a kind.
func (d *Service) Get(
	ctx context.Context,
	who identity.Identity,
	r authrpc.GetResourcesRequest,
) (authrpc.GetResourcesResponse, error) {
	k, _, err := d.authorize(ctx, who, access.Get, r.Kind, r.Name)
	if err != nil {
		return authrpc.GetResourcesResponse{}, err
	}
	if r.Name != "" {
		one, err := k.get(ctx, r.Name)
		if err != nil {
			return authrpc.GetResourcesResponse{}, err
		}
		return authrpc.GetResourcesResponse{Resources: []authrpc.Resource{one}}, nil
	}
	list, next, err := k.list(ctx, state.Page{After: r.After, Limit: pageLimit(r.Limit)})
	return authrpc.GetResourcesResponse{Resources: list, Next: next}, err
}

// maxPage keeps an answer well under authrpc.MaxAnswerBytes for documents of ordinary size.
const maxPage = 200

func pageLimit(n int) int {
	if n <= 0 || n > maxPage {
		return maxPage
	}
	return n
}

// Apply creates or changes a document.
func (d *Service) Apply(
	ctx context.Context,
	who identity.Identity,
	r authrpc.Resource,
) (authrpc.ApplyResourceResponse, error) {
	plural, err := pluralOf(r.Kind)
	if err != nil {
		return authrpc.ApplyResourceResponse{}, err
	}
	k, by, err := d.authorize(ctx, who, access.Apply, plural, r.Metadata.Name)
	if err != nil {
		return authrpc.ApplyResourceResponse{}, err
	}
	if r.Version != Version {
		return authrpc.ApplyResourceResponse{}, fault.New(
			fault.Invalid,
			"resources.Apply",
			fmt.Sprintf("version %.20q of a %s is not known", r.Version, r.Kind),
			"write version: "+Version,
		)
	}
	out, err := k.apply(ctx, by, r)
	return out, d.recordIfDenied(ctx, who, access.Apply, plural, r.Metadata.Name, err)
}

// Remove removes a document.
func (d *Service) Remove(ctx context.Context, who identity.Identity, r authrpc.RemoveResourceRequest) error {
	k, by, err := d.authorize(ctx, who, access.Remove, r.Kind, r.Name)
	if err != nil {
		return err
	}
	return d.recordIfDenied(ctx, who, access.Remove, r.Kind, r.Name, k.remove(ctx, by, r.Name))
}

// authorize asks the rules whether the person may, and notes it where they may not.
func (d *Service) authorize(
	ctx context.Context,
	who identity.Identity,
	a access.Action,
	of access.Resource,
	name string,
) (kind, caller, error) {
	k, known := d.kinds[of]
	if !known {
		return nil, caller{}, unknownKind(string(of))
	}
	policy, err := d.cfg.State.Policy(ctx)
	if err != nil {
		return nil, caller{}, err
	}
	by := caller{who: who, policy: policy, now: d.cfg.Now()}
	said := access.Decide(policy, access.Request{Who: who, Action: a, Resource: of, Now: by.now})
	if said.Allow {
		return k, by, nil
	}
	denied := fault.New(fault.Denied, "resources", said.Reason, said.Remedy)
	return nil, by, d.recordRefusal(ctx, who, a, of, name, said.Rule, denied)
}

// recordIfDenied notes a refusal that came later than the rules: by what the document would have given.
func (d *Service) recordIfDenied(
	ctx context.Context,
	who identity.Identity,
	a access.Action,
	of access.Resource,
	name string,
	err error,
) error {
	if !fault.Is(err, fault.Denied) {
		return err
	}
	return d.recordRefusal(ctx, who, a, of, name, "", err)
}

func (d *Service) recordRefusal(
	ctx context.Context,
	who identity.Identity,
	a access.Action,
	of access.Resource,
	name, rule string,
	why error,
) error {
	e := events.NewEvent(events.ResourceRefused, who, d.cfg.Now())
	e.Rule, e.Reason = rule, events.Truncate(fault.Message(why))
	e.Fields = map[string]string{"action": string(a), "kind": string(of), "name": events.Truncate(name)}
	if err := d.cfg.State.Events.AppendEvents(ctx, e); err != nil {
		return fmt.Errorf("%w (and the refusal could not be noted: %v)", why, err)
	}
	return why
}

// event is the audit event of a change.
func (c caller) event(code events.Code, of access.Resource, name string) events.Event {
	e := events.NewEvent(code, c.who, c.now)
	e.Fields = map[string]string{"kind": string(of), "name": events.Truncate(name)}
	return e
}

// checkRevision refuses to change what is no longer what the caller read. A caller who names no revision
// means: as it is now.
func checkRevision(asked, now uint64) error {
	if asked == 0 || asked == now {
		return nil
	}
	return fault.New(
		fault.Conflict,
		"resources.Apply",
		fmt.Sprintf("it was changed meanwhile: its revision is %d, not %d", now, asked),
		"get it again and repeat the change",
	)
}
