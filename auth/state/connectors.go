package state

import (
	"context"
	"encoding/json"

	"github.com/threshold-access/threshold/internal/audit"
)

// Connector is one provider that may vouch for people. What Spec says is auth/oidc's affair; it holds no secret.
type Connector struct {
	Spec   json.RawMessage `json:"spec"`
	Secret string          `json:"-"` // the client secret. Sealed at rest
}

type connectorRecord struct {
	Connector
	Sealed []byte `json:"sealed,omitempty"`
}

var connectors = table[connectorRecord]{prefix: "connectors/", what: "connector", remedy: "run: tsh get connectors"}

// KeptConnector is a Connector as it was read.
type KeptConnector struct {
	Connector
	Name     string
	Revision uint64
	record   Stored[connectorRecord]
}

// Connector returns the connector of that name, or fault NotFound.
func (v *Vault) Connector(ctx context.Context, name string) (KeptConnector, error) {
	rec, err := connectors.get(ctx, v.state, name)
	if err != nil {
		return KeptConnector{}, err
	}
	return v.openConnector(rec)
}

// Connectors returns every connector by name: a cluster has a handful.
func (v *Vault) Connectors(ctx context.Context) ([]KeptConnector, error) {
	recs, err := connectors.all(ctx, v.state)
	if err != nil {
		return nil, err
	}
	out := make([]KeptConnector, 0, len(recs))
	for _, rec := range recs {
		c, err := v.openConnector(rec)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func (v *Vault) openConnector(rec Stored[connectorRecord]) (KeptConnector, error) {
	out := KeptConnector{Connector: rec.Value.Connector, Name: rec.Key, Revision: rec.Revision, record: rec}
	secret, err := v.openText(connectors.prefix+rec.Key, rec.Value.Sealed)
	out.Secret = secret
	return out, err
}

// PutConnector writes the connector named old.Name. It is fault Conflict if old is no longer what is stored; an old that was not read
// must not exist yet.
func (v *Vault) PutConnector(ctx context.Context, old KeptConnector, next Connector, events ...audit.Event) error {
	sealed, err := v.sealText(connectors.prefix+old.Name, next.Secret)
	if err != nil {
		return err
	}
	old.record.Key = old.Name
	var c change
	c.record(events...)
	return write(ctx, v.state, connectors, old.record, &c, connectorRecord{Connector: next, Sealed: sealed})
}

// RemoveConnector forgets a connector. Its users stay, for the day it comes back.
func (v *Vault) RemoveConnector(ctx context.Context, old KeptConnector, events ...audit.Event) error {
	var c change
	connectors.remove(&c, old.record)
	c.record(events...)
	_, err := v.state.commit(ctx, &c)
	return err
}
