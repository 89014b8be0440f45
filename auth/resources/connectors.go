package resources

import (
	"context"
	"fmt"
	"slices"
	"sort"

	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	events "github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// connectorKind reads and changes connectors. No answer contains a client secret.
type connectorKind struct{ connectors Connectors }

// Sealed replaces the client secret in a connector that is shown. A connector that is applied with it keeps
// the stored secret.
const Sealed = "(sealed)"

// document turns a stored connector into a document, with Sealed in place of the client secret.
func (k connectorKind) document(c state.StoredConnector) (authrpc.Resource, error) {
	return k.documentWith(c, Sealed)
}

// eventDocument turns a stored connector into the document of an audit event, with a digest in place of the
// client secret: the log shows whether the secret was changed.
func (k connectorKind) eventDocument(c state.StoredConnector) (authrpc.Resource, error) {
	return k.documentWith(c, events.DigestSecret(c.Secret))
}

// documentWith turns a stored connector into a document, with shown in place of the client secret, if it has
// one.
func (k connectorKind) documentWith(c state.StoredConnector, shown string) (authrpc.Resource, error) {
	spec, err := oidc.ReadRecord(c.Connector)
	if err != nil {
		return authrpc.Resource{}, err
	}
	if spec.ClientSecret != "" {
		spec.ClientSecret = shown
	}
	return document("connector", c.Name, c.Revision, spec, nil)
}

func (k connectorKind) get(ctx context.Context, name string) (authrpc.Resource, error) {
	got, err := k.connectors.Connector(ctx, name)
	return oneDocument(got, err, k.document)
}

// list reads all connectors and returns the page after p.After: a cluster has only a few.
func (k connectorKind) list(
	ctx context.Context, p state.Page,
) (out []authrpc.Resource, next string, err error) {
	all, err := k.connectors.ListConnectors(ctx)
	if err != nil {
		return nil, "", err
	}
	from := sort.Search(len(all), func(i int) bool { return all[i].Name > p.After }) // they are sorted
	for _, c := range all[from:] {
		if len(out) == p.Limit {
			return out, out[len(out)-1].Metadata.Name, nil
		}
		doc, err := k.document(c)
		if err != nil {
			return nil, "", err
		}
		out = append(out, doc)
	}
	return out, "", nil
}

// apply creates or replaces a connector. All checks come before the write: whether the caller may change
// connectors at all, the spec, the revision, the origin of the secret, and whether someone can still become
// an administrator. The store also refuses another issuer under the same name, with fault Conflict.
func (k connectorKind) apply(
	ctx context.Context, by caller, doc authrpc.Resource,
) (out authrpc.ApplyResourceResponse, err error) {
	name := doc.Metadata.Name
	if err := identity.CheckWord("connector", name); err != nil {
		return out, invalidNameFault("connector", err)
	}
	if err := by.checkConnectorChange(); err != nil {
		return out, err
	}
	var spec oidc.Spec
	if err := decodeSpec(doc, &spec); err != nil {
		return out, err
	}
	old, err := k.connectors.Connector(ctx, name)
	if err != nil && !fault.Is(err, fault.NotFound) { // NotFound: the connector is new
		return out, err
	}
	if err := checkRevision(doc.Metadata.Revision, old.Revision); err != nil {
		return out, err
	}
	// A document that was read and is applied again has Sealed in place of the secret.
	if spec.ClientSecret == Sealed {
		if err := checkSameProvider(old, spec); err != nil {
			return out, err
		}
		spec.ClientSecret = old.Secret
	}
	next, err := spec.Record()
	if err != nil {
		return out, err
	}
	if err := k.checkAdminConnectorRemains(ctx, name, spec); err != nil {
		return out, err
	}
	old.Name = name // a connector that is new was not read, so old has no name yet
	before := &old
	if old.Revision == 0 {
		before = nil
	}
	after := state.StoredConnector{Connector: next, Name: name}
	e, err := changeEvent(by, access.Connectors, before, after, k.eventDocument)
	if err != nil {
		return out, err
	}
	// A compare-and-set: fault Conflict if the connector was changed since it was read above.
	taken, err := k.taken(by, old, spec)
	if err != nil {
		return out, err
	}
	if err := k.connectors.PutConnector(ctx, old, next, taken, by.by(), e); err != nil {
		return out, err
	}
	out.Created, out.Note = old.Revision == 0, noteUnknownRoles(by.policy, spec)
	out.Resource, err = k.get(ctx, name)
	return out, err
}

// taken returns the locks on what old gave, and next does not give. A connector that is new takes nothing.
func (connectorKind) taken(by caller, old state.StoredConnector, next oidc.Spec) ([]access.Lock, error) {
	if old.Revision == 0 {
		return nil, nil
	}
	before, err := oidc.ReadRecord(old.Connector)
	if err != nil {
		return nil, err
	}
	return by.locksOnMapping(old.Name, before, next), nil
}

// checkSameProvider refuses, with fault Invalid, to keep the stored secret of old for next unless both have
// the same issuer and client id. The caller may not know the secret: with another issuer the cluster would
// send it to a server of the caller's choice.
func checkSameProvider(old state.StoredConnector, next oidc.Spec) error {
	invalidFault := func(msg string) error {
		return connectorSecretInvalid.New("resources.Apply", fault.Args{"why": msg})
	}
	if old.Revision == 0 || old.Secret == "" {
		return invalidFault(Sealed + " stands for the stored secret, but there is none")
	}
	stored, err := oidc.ReadRecord(old.Connector)
	if err != nil {
		return err
	}
	if stored.Issuer != next.Issuer || stored.ClientID != next.ClientID {
		return invalidFault("the stored secret belongs to another issuer or client_id")
	}
	return nil
}

// checkAdminConnectorRemains returns fault Denied if, once the connector of that name is next, no connector
// maps anybody to the role admin any more: nobody could log in as an administrator and undo it. A zero next
// stands for no connector. A cluster in which no connector does so now may stay like that.
func (k connectorKind) checkAdminConnectorRemains(ctx context.Context, name string, next oidc.Spec) error {
	all, err := k.connectors.ListConnectors(ctx)
	if err != nil {
		return err
	}
	before, after := false, mapsAdmin(next)
	for _, c := range all {
		spec, err := oidc.ReadRecord(c.Connector)
		if err != nil {
			return err
		}
		isReplaced := c.Name == name
		before = before || mapsAdmin(spec)
		after = after || !isReplaced && mapsAdmin(spec)
	}
	if after || !before {
		return nil
	}
	return connectorAdminLost.New("resources", fault.Args{"role": state.AdminRole})
}

// mapsAdmin reports whether a connector maps anybody to the role admin.
func mapsAdmin(s oidc.Spec) bool {
	return slices.ContainsFunc(s.Roles, func(r oidc.RoleRule) bool {
		return slices.Contains(r.Roles, state.AdminRole)
	})
}

// noteUnknownRoles returns a note about a role that the connector maps and that does not exist, or "".
func noteUnknownRoles(p access.Policy, spec oidc.Spec) string {
	for _, rule := range spec.Roles {
		for _, role := range rule.Roles {
			if _, known := p.Roles[role]; !known {
				return noteUnknownRole(role)
			}
		}
	}
	return ""
}

// noteUnknownRole warns of a name that is not a role: it may be misspelt, or its role is still to be created.
func noteUnknownRole(role string) string {
	return fmt.Sprintf("there is no role %s yet; it grants nothing until it is created", role)
}

// remove removes a connector, and locks what was issued by it before. Its users stay: they can no longer log
// in, and their name stays bound to the issuer. Unlike apply it does not need the right to apply roles:
// without the connector nobody can log in as someone else.
func (k connectorKind) remove(ctx context.Context, by caller, name string) error {
	old, err := k.connectors.Connector(ctx, name)
	if err != nil {
		return err
	}
	noConnector := oidc.Spec{}
	if err := k.checkAdminConnectorRemains(ctx, name, noConnector); err != nil {
		return err
	}
	e, err := removalEvent(by, access.Connectors, old, k.eventDocument)
	if err != nil {
		return err
	}
	return k.connectors.RemoveConnector(ctx, old, by.by(), e)
}
