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

type connectorKind struct{ *Service }

// Sealed stands in a shown connector where it has a client secret; applied again it means: as it was.
const Sealed = "(sealed)"

func (k connectorKind) document(c state.StoredConnector) (authrpc.Resource, error) {
	spec, err := oidc.ReadRecord(c.Connector)
	if err != nil {
		return authrpc.Resource{}, err
	}
	if spec.ClientSecret != "" {
		spec.ClientSecret = Sealed
	}
	return document("connector", c.Name, c.Revision, spec, nil)
}

func (k connectorKind) get(ctx context.Context, name string) (authrpc.Resource, error) {
	got, err := k.cfg.Vault.Connector(ctx, name)
	return oneDocument(got, err, k.document)
}

// list gives a page of all connectors: a cluster has a handful.
func (k connectorKind) list(
	ctx context.Context,
	p state.Page,
) (out []authrpc.Resource, next string, err error) {
	all, err := k.cfg.Vault.Connectors(ctx)
	if err != nil {
		return nil, "", err
	}
	from := sort.Search(len(all), func(i int) bool { return all[i].Name > p.After })
	for _, c := range all[from:] {
		if len(out) == p.Limit {
			return out, out[len(out)-1].Metadata.Name, nil
		}
		r, err := k.document(c)
		if err != nil {
			return nil, "", err
		}
		out = append(out, r)
	}
	return out, "", nil
}

func (k connectorKind) apply(
	ctx context.Context,
	by caller,
	r authrpc.Resource,
) (out authrpc.ApplyResourceResponse, err error) {
	name := r.Metadata.Name
	if err := identity.CheckWord("connector", name); err != nil {
		return out, invalidName("connector", err)
	}
	if err := by.mayChangeConnectors(); err != nil {
		return out, err
	}
	var spec oidc.Spec
	if err := readSpec(r, &spec); err != nil {
		return out, err
	}
	old, err := k.cfg.Vault.Connector(ctx, name)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return out, err
	}
	if err := checkRevision(r.Metadata.Revision, old.Revision); err != nil {
		return out, err
	}
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
	if err := k.keepAdminConnector(ctx, name, spec); err != nil {
		return out, err
	}
	old.Name = name
	if err := k.cfg.Vault.PutConnector(ctx, old, next, by.event(events.ResourceApplied, access.Connectors, name)); err != nil {
		return out, err
	}
	out.Created, out.Note = old.Revision == 0, noteUnknownRoles(by.policy, spec)
	out.Resource, err = k.get(ctx, name)
	return out, err
}

// checkSameProvider refuses to send a secret that nobody typed to another provider than the one it was made
// for.
func checkSameProvider(old state.StoredConnector, next oidc.Spec) error {
	const remedy = "write the client_secret itself"
	if old.Revision == 0 || old.Secret == "" {
		return fault.New(
			fault.Invalid,
			"resources.Apply",
			"spec.client_secret: "+Sealed+" stands for a secret that is kept, and there is none",
			remedy,
		)
	}
	was, err := oidc.ReadRecord(old.Connector)
	if err != nil {
		return err
	}
	if was.Issuer != next.Issuer || was.ClientID != next.ClientID {
		return fault.New(
			fault.Invalid,
			"resources.Apply",
			"spec.client_secret: the kept secret belongs to another issuer or client_id",
			remedy,
		)
	}
	return nil
}

// keepAdminConnector refuses a change after which no connector makes an administrator any more, where one
// did: nobody could mend it.
func (k connectorKind) keepAdminConnector(ctx context.Context, name string, next oidc.Spec) error {
	all, err := k.cfg.Vault.Connectors(ctx)
	if err != nil {
		return err
	}
	before, after := false, mapsAdmin(next)
	for _, c := range all {
		spec, err := oidc.ReadRecord(c.Connector)
		if err != nil {
			return err
		}
		before = before || mapsAdmin(spec)
		after = after || c.Name != name && mapsAdmin(spec)
	}
	if after || !before {
		return nil
	}
	return fault.New(
		fault.Denied,
		"resources",
		"no connector would give anybody the role "+state.AdminRole+" any more",
		"map a claim to it in another connector first",
	)
}

func mapsAdmin(s oidc.Spec) bool {
	return slices.ContainsFunc(
		s.Roles,
		func(r oidc.RoleRule) bool { return slices.Contains(r.Roles, state.AdminRole) },
	)
}

func noteUnknownRoles(p access.Policy, spec oidc.Spec) string {
	for _, rule := range spec.Roles {
		for _, role := range rule.Roles {
			if _, known := p[role]; !known {
				return fmt.Sprintf("there is no role %s yet; until there is, it gives nothing", role)
			}
		}
	}
	return ""
}

func (k connectorKind) remove(ctx context.Context, by caller, name string) error {
	old, err := k.cfg.Vault.Connector(ctx, name)
	if err != nil {
		return err
	}
	if err := k.keepAdminConnector(ctx, name, oidc.Spec{}); err != nil {
		return err
	}
	return k.cfg.Vault.RemoveConnector(ctx, old, by.event(events.ResourceRemoved, access.Connectors, name))
}
