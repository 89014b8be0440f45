package state

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
)

// Connector is one configured OpenID Connect provider. Spec is auth/oidc's document without the secret.
type Connector struct {
	Spec   json.RawMessage `json:"spec"`
	Issuer string          `json:"issuer,omitempty"` // fixed for the connector's name
	Secret string          `json:"-"`                // the client secret; sealed when stored
}

type connectorRecord struct {
	Connector
	Sealed []byte `json:"sealed,omitempty"`
}

var connectors = table[connectorRecord]{
	prefix: "connectors/", noun: "connector", remedy: "run: tsh get connectors",
}

// issuerRecord says for which issuer a connector's name stands since it was first used. It outlives the
// connector, as its users do: a user is (connector, subject). With another issuer the same subject would be
// another person, who would get the first one's roles.
type issuerRecord struct {
	Issuer string `json:"issuer"`
}

var connectorIssuers = table[issuerRecord]{
	prefix: "connector-issuers/", noun: "issuer of connector", remedy: "run: tsh get connectors",
}

// StoredConnector is a Connector as it was read, for PutConnector to compare with.
type StoredConnector struct {
	Connector
	Name     string
	Revision uint64
	record   Stored[connectorRecord]
}

// HasConnector reports whether there is a connector of that name.
func (r *Reader) HasConnector(ctx context.Context, name string) (bool, error) {
	rec, err := connectors.getOrNew(ctx, r, name)
	return rec.Revision != 0, err
}

// ConnectorReader reads connectors with their secrets. It cannot write.
type ConnectorReader struct {
	reader  *Reader
	secrets secrets
}

// Connector returns the connector of that name, or fault NotFound.
func (r *ConnectorReader) Connector(ctx context.Context, name string) (StoredConnector, error) {
	rec, err := connectors.get(ctx, r.reader, name)
	if err != nil {
		return StoredConnector{}, err
	}
	return r.open(rec)
}

// ListConnectors returns all connectors, by name: a cluster has only a few.
func (r *ConnectorReader) ListConnectors(ctx context.Context) ([]StoredConnector, error) {
	recs, err := connectors.all(ctx, r.reader)
	if err != nil {
		return nil, err
	}
	out := make([]StoredConnector, 0, len(recs))
	for _, rec := range recs {
		c, err := r.open(rec)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// open decrypts the client secret of a stored connector.
func (r *ConnectorReader) open(rec Stored[connectorRecord]) (StoredConnector, error) {
	out := StoredConnector{Connector: rec.Value.Connector, Name: rec.Key, Revision: rec.Revision, record: rec}
	secret, err := r.secrets.openText(connectors.prefix+rec.Key, rec.Value.Sealed)
	out.Secret = secret
	return out, err
}

// Connectors changes connectors, and reads them.
type Connectors struct {
	*ConnectorReader
	writer writer
}

// PutConnector writes the connector named old.Name. It returns fault Conflict if old is no longer what is
// stored; an old that was not read must not exist yet. It also returns fault Conflict if the name ever stood
// for another issuer.
func (w *Connectors) PutConnector(
	ctx context.Context, old StoredConnector, next Connector, events ...audit.Event,
) error {
	sealed, err := w.secrets.sealText(connectors.prefix+old.Name, next.Secret)
	if err != nil {
		return err
	}
	old.record.Key = old.Name
	var c change
	if err := w.checkIssuer(ctx, &c, old.Name, next.Issuer); err != nil {
		return err
	}
	c.appendEvents(events...)
	connectors.replaceOrCreate(&c, old.record, connectorRecord{Connector: next, Sealed: sealed})
	_, err = w.writer.commit(ctx, &c)
	return err
}

// checkIssuer refuses an issuer for which the name does not stand. A name that is new gets the issuer.
func (w *Connectors) checkIssuer(ctx context.Context, c *change, name, issuer string) error {
	have, err := connectorIssuers.getOrNew(ctx, w.reader, name)
	switch {
	case err != nil:
		return err
	case have.Revision == 0:
		connectorIssuers.create(c, name, issuerRecord{issuer})
	case have.Value.Issuer != issuer:
		msg := fmt.Sprintf(
			"connector %q belongs to the users of %s: with another issuer, strangers could get their roles",
			name, have.Value.Issuer)
		return fault.New(fault.Conflict, "state.PutConnector", msg,
			"create a connector with another name for the other issuer")
	}
	return nil
}

// RemoveConnector removes a connector. Its users stay, in case the connector is created again.
func (w *Connectors) RemoveConnector(ctx context.Context, old StoredConnector, events ...audit.Event) error {
	var c change
	connectors.remove(&c, old.record)
	c.appendEvents(events...)
	_, err := w.writer.commit(ctx, &c)
	return err
}
