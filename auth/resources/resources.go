// Package resources answers: which documents may be read and changed, and by whom?
//
// Roles, connectors, users, tokens, machines and events are documents of one shape. access.Decide decides
// every call first. Every change is decoded strictly, compares revisions where the caller names one, and is
// committed together with its audit event. Refusals are audit events too.
//
// Nobody gains rights through one kind of document that another kind guards: who may change connectors, users
// or machines but not roles cannot give themselves or others more than they have (escalation.go).
package resources

import (
	"context"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	events "github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Version is the version of the documents of every kind.
const Version = "v1"

// Config says what the service needs. All of it is required.
type Config struct {
	Policies   Policies // decide every call
	Events     Events   // get the refusals
	Roles      Roles
	Connectors Connectors
	Users      Users
	Tokens     Tokens
	Join       TokenCreator
	Machines   Machines
	Log        Log
	Now        func() time.Time
}

// Service serves documents. It is safe for concurrent use.
type Service struct {
	policies Policies
	events   Events
	now      func() time.Time
	kinds    map[access.Resource]kind
}

// kind is how one kind of document is read and changed. Service calls it only after the rules allowed the
// call; what a change would give the caller beyond that, the kind checks itself.
type kind interface {
	get(ctx context.Context, name string) (authrpc.Resource, error)
	list(ctx context.Context, p state.Page) (list []authrpc.Resource, next string, err error)
	apply(ctx context.Context, by caller, r authrpc.Resource) (authrpc.ApplyResourceResponse, error)
	remove(ctx context.Context, by caller, name string) error
}

// caller is who calls, with the rules and the time by which the call is decided.
type caller struct {
	who    identity.Identity
	policy access.Policy
	now    time.Time
}

// may reports whether the rules allow the caller the action on a kind of document.
func (c caller) may(a access.Action, r access.Resource) bool {
	return access.Decide(c.policy, access.Request{Who: c.who, Action: a, Resource: r, Now: c.now}).Allow
}

// New makes a service.
func New(cfg Config) *Service {
	return &Service{
		policies: cfg.Policies,
		events:   cfg.Events,
		now:      cfg.Now,
		kinds: map[access.Resource]kind{
			access.Roles:      roleKind{cfg.Roles},
			access.Connectors: connectorKind{cfg.Connectors},
			access.Users:      userKind{cfg.Users},
			access.Tokens:     tokenKind{cfg.Tokens, cfg.Join, cfg.Now},
			access.Machines:   machineKind{cfg.Machines},
			access.Events:     eventKind{cfg.Log},
		},
	}
}

// singular is what a document's own kind field says.
var singular = map[access.Resource]string{
	access.Roles:      "role",
	access.Connectors: "connector",
	access.Users:      "user",
	access.Tokens:     "token",
	access.Machines:   "machine",
	access.Events:     "event",
}

// pluralOf maps the kind field of a document to the name of its kind in rules and requests.
func pluralOf(kind string) (access.Resource, error) {
	for p, s := range singular {
		if s == kind {
			return p, nil
		}
	}
	return "", unknownKindFault(kind)
}

func unknownKindFault(kind string) error {
	return fault.New(fault.Invalid, "resources", fmt.Sprintf("there is no kind of document %.40q", kind),
		"use one of: role, connector, user, token, machine, event")
}

// Get reads one document, or one page of a kind.
func (s *Service) Get(
	ctx context.Context, who identity.Identity, r authrpc.GetResourcesRequest,
) (authrpc.GetResourcesResponse, error) {
	k, _, err := s.authorize(ctx, who, access.Get, r.Kind, r.Name)
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

// maxPage is the largest page, in documents, and the default. With documents of ordinary size an answer stays
// well under authrpc.MaxAnswerBytes.
const maxPage = 200

func pageLimit(n int) int {
	if n <= 0 || n > maxPage {
		return maxPage
	}
	return n
}

// Apply creates or changes a document.
func (s *Service) Apply(
	ctx context.Context, who identity.Identity, r authrpc.Resource,
) (authrpc.ApplyResourceResponse, error) {
	plural, err := pluralOf(r.Kind)
	if err != nil {
		return authrpc.ApplyResourceResponse{}, err
	}
	k, by, err := s.authorize(ctx, who, access.Apply, plural, r.Metadata.Name)
	if err != nil {
		return authrpc.ApplyResourceResponse{}, err
	}
	if r.Version != Version {
		msg := fmt.Sprintf("version %.20q of kind %s is not supported", r.Version, r.Kind)
		return authrpc.ApplyResourceResponse{},
			fault.New(fault.Invalid, "resources.Apply", msg, "write version: "+Version)
	}
	out, err := k.apply(ctx, by, r)
	return out, s.recordIfDenied(ctx, who, access.Apply, plural, r.Metadata.Name, err)
}

// Remove removes a document.
func (s *Service) Remove(ctx context.Context, who identity.Identity, r authrpc.RemoveResourceRequest) error {
	k, by, err := s.authorize(ctx, who, access.Remove, r.Kind, r.Name)
	if err != nil {
		return err
	}
	return s.recordIfDenied(ctx, who, access.Remove, r.Kind, r.Name, k.remove(ctx, by, r.Name))
}

// authorize lets the rules decide the call, and records a denial as an audit event.
func (s *Service) authorize(
	ctx context.Context, who identity.Identity, a access.Action, of access.Resource, name string,
) (kind, caller, error) {
	k, known := s.kinds[of]
	if !known {
		return nil, caller{}, unknownKindFault(string(of))
	}
	policy, err := s.policies.Policy(ctx)
	if err != nil {
		return nil, caller{}, err
	}
	by := caller{who: who, policy: policy, now: s.now()}
	d := access.Decide(policy, access.Request{Who: who, Action: a, Resource: of, Now: by.now})
	if d.Allow {
		return k, by, nil
	}
	denied := fault.New(fault.Denied, "resources", d.Reason, d.Remedy)
	return nil, by, s.recordRefusal(ctx, who, a, of, name, d.Rule, denied)
}

// recordIfDenied records a denial that came after the rules allowed the call: the document would have given
// the caller more than they have.
func (s *Service) recordIfDenied(
	ctx context.Context, who identity.Identity, a access.Action, of access.Resource, name string, err error,
) error {
	if !fault.Is(err, fault.Denied) {
		return err
	}
	return s.recordRefusal(ctx, who, a, of, name, "", err)
}

// recordRefusal stores the refusal as an audit event and returns its reason.
func (s *Service) recordRefusal(
	ctx context.Context, who identity.Identity, a access.Action, of access.Resource, name, rule string,
	reason error,
) error {
	e := events.NewEvent(events.ResourceRefused, who, s.now())
	e.Rule, e.Reason = rule, events.Truncate(fault.Message(reason))
	e.Fields = map[string]string{"action": string(a), "kind": string(of), "name": events.Truncate(name)}
	if err := s.events.AppendEvents(ctx, e); err != nil {
		return fmt.Errorf("%w (and the refusal could not be recorded: %v)", reason, err)
	}
	return reason
}

// event is the audit event of a change.
func (c caller) event(code events.Code, of access.Resource, name string) events.Event {
	e := events.NewEvent(code, c.who, c.now)
	e.Fields = map[string]string{"kind": string(of), "name": events.Truncate(name)}
	return e
}

// checkRevision refuses to change a document that was changed since the caller read it. A caller who names no
// revision (0) changes the document as it is now.
func checkRevision(asked, now uint64) error {
	if asked == 0 || asked == now {
		return nil
	}
	msg := fmt.Sprintf("the document was changed: its revision is now %d, not %d", now, asked)
	return fault.New(fault.Conflict, "resources.Apply", msg, "get it again and repeat the change")
}
