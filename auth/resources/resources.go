// Package resources answers: which documents may be read and changed, and by whom?
//
// Roles, connectors, users, tokens, nodes, proxies, replicas, authorities, settings, locks and events are
// documents of one shape. A call passes these steps:
//
//  1. The policy decides it by the roles of the caller. A denial is stored as an audit event.
//  2. The spec is decoded strictly: an unknown key is an error, because it may be a misspelt one.
//  3. If the caller names a revision, it must be that of the stored document. The write itself is a
//     compare-and-set on the document that was read, so of two concurrent changes one gets fault Conflict.
//  4. The kind checks what the change would cause: that it gives the caller no right that only a change of
//     roles may give (escalation.go), and that someone can still administer the cluster afterwards. Such a
//     denial is an audit event too.
//  5. The change is committed together with its audit event.
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
	Policies      Policies // decide every call
	Events        Events   // get the refusals
	Roles         Roles
	Connectors    Connectors
	Users         Users
	Tokens        Tokens
	Join          TokenCreator
	Machines      Machines
	Replicas      Replicas
	Authorities   Authorities
	Settings      Settings
	Locks         Locks
	Confirmations Confirmations
	Log           Log
	Now           func() time.Time
}

// Service serves documents. It is safe for concurrent use.
type Service struct {
	policies      Policies
	events        Events
	confirmations Confirmations
	now           func() time.Time
	kinds         map[access.Resource]kind
}

// kind reads and changes one kind of document. Service calls it only after the rules allowed the action on
// the kind. apply and remove still check what the change would cause, and return fault Denied if it would
// give the caller more than they have; Service records that.
type kind interface {
	// get returns the document of that name, or fault NotFound.
	get(ctx context.Context, name string) (authrpc.Resource, error)
	// list returns one page. next is the After of the next page, and "" at the end.
	list(ctx context.Context, p state.Page) (list []authrpc.Resource, next string, err error)
	// apply creates or changes the document named in the metadata. The answer has it as it is stored now.
	apply(ctx context.Context, by caller, doc authrpc.Resource) (authrpc.ApplyResourceResponse, error)
	// remove removes the document of that name, or returns fault NotFound.
	remove(ctx context.Context, by caller, name string) error
}

// caller is who calls, with the roles in force and the time. Every check of one call uses the same, so that
// they cannot contradict each other.
type caller struct {
	who    identity.Identity
	serial identity.Serial    // of the certificate
	proxy  identity.MachineID // by which the caller is connected
	policy access.Policy
	now    time.Time
}

// request is the part of a question to the policy that is the same for every question of the call.
func (c caller) request() access.Request {
	return access.Request{Who: c.who, Serial: c.serial, Proxy: c.proxy, Now: c.now}
}

// by says who takes access away by the call.
func (c caller) by() state.By { return state.By{Name: c.who.Name, Time: c.now} }

// may reports whether the rules allow the caller the action on a kind of document.
func (c caller) may(action access.Action, plural access.Resource) bool {
	request := c.request()
	request.Action, request.Resource = action, plural
	return c.policy.Decide(request).Allow
}

// New makes a service. It checks nothing: auth wires it, and all of cfg is required.
func New(cfg Config) *Service {
	users := userKind{cfg.Users}
	locks := lockKind{cfg.Locks, users, cfg.Machines, cfg.Connectors, cfg.Now}
	return &Service{
		policies:      cfg.Policies,
		events:        cfg.Events,
		confirmations: cfg.Confirmations,
		now:           cfg.Now,
		kinds: map[access.Resource]kind{
			access.Roles:           roleKind{cfg.Roles},
			access.Connectors:      connectorKind{cfg.Connectors},
			access.Users:           users,
			access.Tokens:          tokenKind{cfg.Tokens, cfg.Join, cfg.Now},
			access.Nodes:           machineKind{cfg.Machines, identity.Node, access.Nodes},
			access.Proxies:         machineKind{cfg.Machines, identity.Proxy, access.Proxies},
			access.Replicas:        replicaKind{cfg.Replicas},
			access.Authorities:     authoritiesKind{cfg.Authorities},
			access.ClusterSettings: settingsKind{cfg.Settings},
			access.ClusterLocks:    locks,
			access.Events:          eventKind{cfg.Log},
		},
	}
}

// pluralOf returns the name in rules and requests of what the kind field of a document says. An unknown kind
// gets fault Invalid.
func pluralOf(kind string) (access.Resource, error) {
	for _, plural := range access.Resources {
		if plural.Singular() == kind {
			return plural, nil
		}
	}
	return "", unknownKindFault(kind)
}

// unknownKindFault is the error for a kind, in either form, that does not exist.
func unknownKindFault(kind string) error {
	return documentKindUnknown.New("resources", fault.Args{"kind": kind})
}

// Get returns the document of that name, or without a name one page of the kind. The user who must have the
// action get on the kind.
func (s *Service) Get(
	ctx context.Context, who authrpc.Caller, req authrpc.GetResourcesRequest,
) (authrpc.GetResourcesResponse, error) {
	k, _, err := s.authorize(ctx, who, access.Get, req.Kind, req.Name)
	if err != nil {
		return authrpc.GetResourcesResponse{}, err
	}
	if req.Name != "" {
		one, err := k.get(ctx, req.Name)
		if err != nil {
			return authrpc.GetResourcesResponse{}, err
		}
		return authrpc.GetResourcesResponse{Resources: []authrpc.Resource{one}}, nil
	}
	list, next, err := k.list(ctx, state.Page{After: req.After, Limit: pageLimit(req.Limit)})
	return authrpc.GetResourcesResponse{Resources: list, Next: next}, err
}

// maxPage is the largest page, in documents, and the default. With documents of ordinary size an answer stays
// well under authrpc.MaxAnswerBytes.
const maxPage = 200

// pageLimit returns how many documents a page has: as many as asked for, but maxPage for zero, a negative
// number and anything larger.
func pageLimit(asked int) int {
	if asked <= 0 || asked > maxPage {
		return maxPage
	}
	return asked
}

// Apply creates or changes the document, and returns it as it is stored then. The user who must have the
// action apply on its kind. Errors: fault Denied, also if the change would give the user more than they have;
// Invalid for a document that cannot be used; Conflict if it changed since the revision that it names.
func (s *Service) Apply(
	ctx context.Context, who authrpc.Caller, doc authrpc.Resource,
) (authrpc.ApplyResourceResponse, error) {
	plural, err := pluralOf(doc.Kind)
	if err != nil {
		return authrpc.ApplyResourceResponse{}, err
	}
	name := doc.Metadata.Name
	// First the rules, then the content: who may not apply this kind learns nothing about its documents.
	k, by, err := s.authorize(ctx, who, access.Apply, plural, name)
	if err != nil {
		return authrpc.ApplyResourceResponse{}, err
	}
	if doc.Version != Version {
		return authrpc.ApplyResourceResponse{},
			documentVersionUnknown.New("resources.Apply", fault.Args{
				"version": doc.Version,
				"kind":    doc.Kind,
			})
	}
	res, err := k.apply(ctx, by, doc)
	return res, s.recordIfDenied(ctx, who.Identity, access.Apply, plural, name, err)
}

// Remove removes a document. The user who must have the action remove on its kind. Errors are those of Apply,
// and fault NotFound.
func (s *Service) Remove(
	ctx context.Context,
	who authrpc.Caller,
	req authrpc.RemoveResourceRequest,
) error {
	k, by, err := s.authorize(ctx, who, access.Remove, req.Kind, req.Name)
	if err != nil {
		return err
	}
	err = k.remove(ctx, by, req.Name)
	return s.recordIfDenied(ctx, who.Identity, access.Remove, req.Kind, req.Name, err)
}

// authorize asks the rules whether who may take the action on the kind named plural. If so, it returns the
// kind and the caller for its checks. If not, it stores a denial as an audit event and returns fault Denied.
// name is only for that event: the rules decide about a whole kind.
func (s *Service) authorize(
	ctx context.Context, who authrpc.Caller, action access.Action, plural access.Resource, name string,
) (kind, caller, error) {
	k, known := s.kinds[plural]
	if !known {
		return nil, caller{}, unknownKindFault(string(plural))
	}
	by, err := s.callerOf(ctx, who)
	if err != nil {
		return nil, caller{}, err
	}
	if err := s.require(ctx, by, action, plural, name); err != nil {
		return nil, by, err
	}
	return k, by, nil
}

// callerOf returns who as a caller, with the rules as they are now.
func (s *Service) callerOf(ctx context.Context, who authrpc.Caller) (caller, error) {
	policy, err := s.policies.Policy(ctx)
	return caller{
		who:    who.Identity,
		serial: who.Serial,
		proxy:  who.ProxyID,
		policy: policy,
		now:    s.now(),
	}, err
}

// require returns nil if the rules allow the caller the action on a kind of document. Otherwise it stores a
// denial as an audit event, and returns fault Denied.
func (s *Service) require(
	ctx context.Context, by caller, action access.Action, plural access.Resource, name string,
) error {
	request := by.request()
	request.Action, request.Resource = action, plural
	decision := by.policy.Decide(request)
	if decision.Allow {
		return nil
	}
	denied := resourceAccessDenied.New("resources", fault.Args{
		"reason": decision.Reason,
		"hint":   decision.Remedy,
	})
	return s.recordRefusal(ctx, by.who, action, plural, name, decision.Rule, denied)
}

// recordIfDenied stores an audit event if err, the result of a kind's apply or remove, is fault Denied: the
// rules allowed the call, but a check of the kind refused the change. It returns err in any case.
func (s *Service) recordIfDenied(
	ctx context.Context, who identity.Identity, action access.Action, plural access.Resource, name string,
	err error,
) error {
	if !fault.Is(err, fault.Denied) {
		return err
	}
	const noRule = "" // no entry of a role denied it
	return s.recordRefusal(ctx, who, action, plural, name, noRule, err)
}

// recordRefusal stores the refusal of a call as an audit event, and returns reason for the caller to pass on.
// If the event cannot be stored, the error says that too, and is still of reason's kind.
func (s *Service) recordRefusal(
	ctx context.Context,
	who identity.Identity,
	action access.Action,
	plural access.Resource,
	name, rule string,
	reason error,
) error {
	e := events.New(s.now(), who, events.ResourceRefusal{
		Action: string(action),
		Kind:   string(plural),
		Name:   events.Truncate(name),
		Rule:   rule,
		Reason: events.Truncate(fault.Message(reason)),
	})
	if err := s.events.AppendEvents(ctx, e); err != nil {
		return fmt.Errorf("%w (and the refusal could not be recorded: %v)", reason, err)
	}
	return reason
}

// changeEvent returns the audit event of a change from old to next, to be committed with the change. old is
// nil for what is new. toDocument makes a document without secrets.
func changeEvent[T any](
	by caller, plural access.Resource, old *T, next T, toDocument func(T) (authrpc.Resource, error),
) (events.Event, error) {
	var before *events.Document
	if old != nil {
		var err error
		if before, _, err = eventDocument(*old, toDocument); err != nil {
			return events.Event{}, err
		}
	}
	after, name, err := eventDocument(next, toDocument)
	if err != nil {
		return events.Event{}, err
	}
	return events.New(by.now, by.who, events.ResourceChange{
		Kind:   string(plural),
		Name:   name,
		Before: before,
		After:  after,
	}), nil
}

// removalEvent returns the audit event of the removal of old, to be committed with the removal. toDocument
// makes a document without secrets.
func removalEvent[T any](
	by caller, plural access.Resource, old T, toDocument func(T) (authrpc.Resource, error),
) (events.Event, error) {
	before, name, err := eventDocument(old, toDocument)
	if err != nil {
		return events.Event{}, err
	}
	return events.New(by.now, by.who, events.ResourceRemoval{
		Kind:   string(plural),
		Name:   name,
		Before: before,
	}), nil
}

// eventDocument returns a document as an audit event has it, and its name. It has what an administrator sets:
// no status, and no revision, because that of a change is not known before it is committed.
func eventDocument[T any](
	v T, toDocument func(T) (authrpc.Resource, error),
) (d *events.Document, name string, err error) {
	doc, err := toDocument(v)
	if err != nil {
		return nil, "", err
	}
	name = events.Truncate(doc.Metadata.Name)
	doc.Status, doc.Metadata.Revision = nil, 0
	d, err = events.NewDocument(doc)
	return d, name, err
}

// ifStored returns a pointer to what was read, or nil for what was never stored.
func ifStored[T any](s state.Stored[T]) *state.Stored[T] {
	if s.Revision == 0 {
		return nil
	}
	return &s
}

// checkRevision returns fault Conflict if the document was changed since the caller read it: the caller would
// undo a change that they have not seen. A caller who names no revision (0) changes the document as it is
// now. stored is 0 for a document that does not exist.
func checkRevision(asked, stored uint64) error {
	if asked == 0 || asked == stored {
		return nil
	}
	return documentChanged.New("resources.Apply", fault.Args{"stored": stored, "asked": asked})
}
