package state

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
)

// Connector is one provider that may vouch for people. What Spec says is auth/oidc's affair; it holds no
// secret.
type Connector struct {
	Spec   json.RawMessage `json:"spec"`
	Issuer string          `json:"realm,omitempty"` // whose subjects its people are: the issuer. It stays for good
	Secret string          `json:"-"`               // the client secret. Sealed at rest
}

type connectorRecord struct {
	Connector
	Sealed []byte `json:"sealed,omitempty"`
}

var connectors = table[connectorRecord]{
	prefix: "connectors/",
	noun:   "connector",
	remedy: "run: tsh get connectors",
}

// issuerRecord is what a connector's name has stood for since it was first used. It outlives the connector,
// as its users do: a user is (connector, subject), so behind another issuer the same subject would be
// somebody else, with the first one's roles.
type issuerRecord struct {
	Issuer string `json:"of"`
}

var connectorIssuers = table[issuerRecord]{
	prefix: "realms/",
	noun:   "realm of connector",
	remedy: "run: tsh get connectors",
}

// StoredConnector is a Connector as it was read.
type StoredConnector struct {
	Connector
	Name     string
	Revision uint64
	record   Stored[connectorRecord]
}

// Connector returns the connector of that name, or fault NotFound.
func (v *Vault) Connector(ctx context.Context, name string) (StoredConnector, error) {
	rec, err := connectors.get(ctx, v.state, name)
	if err != nil {
		return StoredConnector{}, err
	}
	return v.openConnector(rec)
}

// Connectors returns every connector by name: a cluster has a handful.
func (v *Vault) Connectors(ctx context.Context) ([]StoredConnector, error) {
	recs, err := connectors.all(ctx, v.state)
	if err != nil {
		return nil, err
	}
	out := make([]StoredConnector, 0, len(recs))
	for _, rec := range recs {
		c, err := v.openConnector(rec)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func (v *Vault) openConnector(rec Stored[connectorRecord]) (StoredConnector, error) {
	out := StoredConnector{Connector: rec.Value.Connector, Name: rec.Key, Revision: rec.Revision, record: rec}
	secret, err := v.openText(connectors.prefix+rec.Key, rec.Value.Sealed)
	out.Secret = secret
	return out, err
}

// HasConnector reports whether there is a connector of that name.
func (s *State) HasConnector(ctx context.Context, name string) (bool, error) {
	rec, err := connectors.getOrNew(ctx, s, name)
	return rec.Revision != 0, err
}

// PutConnector writes the connector named old.Name. It is fault Conflict if old is no longer what is stored;
// an old that was not read must not exist yet. A name that stood for another realm, even long ago, is
// refused.
func (v *Vault) PutConnector(
	ctx context.Context,
	old StoredConnector,
	next Connector,
	events ...audit.Event,
) error {
	sealed, err := v.sealText(connectors.prefix+old.Name, next.Secret)
	if err != nil {
		return err
	}
	old.record.Key = old.Name
	var c change
	if err := v.checkIssuer(ctx, &c, old.Name, next.Issuer); err != nil {
		return err
	}
	c.appendEvents(events...)
	return write(ctx, v.state, connectors, old.record, &c, connectorRecord{Connector: next, Sealed: sealed})
}

func (v *Vault) checkIssuer(ctx context.Context, c *change, name, of string) error {
	have, err := connectorIssuers.getOrNew(ctx, v.state, name)
	switch {
	case err != nil:
		return err
	case have.Revision == 0:
		connectorIssuers.create(c, name, issuerRecord{of})
	case have.Value.Issuer != of:
		return fault.New(
			fault.Conflict,
			"state.PutConnector",
			fmt.Sprintf(
				"connector %q stands for the people of %s: with another issuer, strangers could get their roles",
				name,
				have.Value.Issuer,
			),
			"make a connector of another name for the other issuer",
		)
	}
	return nil
}

// RemoveConnector forgets a connector. Its users stay, for the day it comes back.
func (v *Vault) RemoveConnector(ctx context.Context, old StoredConnector, events ...audit.Event) error {
	var c change
	connectors.remove(&c, old.record)
	c.appendEvents(events...)
	_, err := v.state.commit(ctx, &c)
	return err
}
