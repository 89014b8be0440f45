package state

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
)

// Connector is one configured OpenID Connect provider. Spec is auth/oidc's document without the secret.
type Connector struct {
	Spec   json.RawMessage `json:"spec"`
	Issuer string          `json:"issuer,omitempty"` // fixed for the connector's name
	Secret string          `json:"-"`                // the client secret; sealed when stored
}

// connectorRecord is a Connector as it is stored.
type connectorRecord struct {
	Connector
	Sealed []byte `json:"sealed,omitempty"` // the client secret, encrypted
}

var connectors = table[connectorRecord]{
	prefix: "connectors/", noun: "connector", remedy: "run: tsh get connectors",
}

// issuerRecord is the issuer for which a connector's name was first used. The name belongs to that issuer for
// good: the record stays when the connector is removed, as the connector's users do. A user is identified by
// connector and subject. With another issuer the same subject would be another person, who would get the
// roles of the first.
type issuerRecord struct {
	Issuer string `json:"issuer"`
}

var connectorIssuers = table[issuerRecord]{
	prefix: "connector-issuers/", noun: "issuer of connector", remedy: "run: tsh get connectors",
}

// StoredConnector is a Connector as it was read. PutConnector and RemoveConnector fail if the stored one has
// changed since.
type StoredConnector struct {
	Connector
	Name     string
	Revision uint64 // of its last write; 0: it was never stored
	record   Stored[connectorRecord]
}

// issuedRecord is when certificates were issued last to anybody who logged in by a connector. A lock on what
// was issued by it before hits them, too.
type issuedRecord struct {
	Time time.Time `json:"time"`
}

var lastIssued = table[issuedRecord]{
	prefix: "last-issued/", noun: "last issuance by connector", remedy: "run: tsh get connectors",
}

// ConnectorRevision returns the revision of the connector's last change, and 0 if there is none of that name.
func (r *Reader) ConnectorRevision(ctx context.Context, name string) (uint64, error) {
	rec, err := connectors.getOrNew(ctx, r, name)
	return rec.Revision, err
}

// afterIssued adds to c that nobody got certificates by the connector since by was returned, whose time is
// after that of all that were issued before.
func (r *Reader) afterIssued(ctx context.Context, c *change, connector string, by By) (By, error) {
	last, err := lastIssued.getOrNew(ctx, r, connector)
	if err != nil {
		return by, err
	}
	if last.Revision == 0 {
		lastIssued.requireMissing(c, connector)
	} else {
		lastIssued.requireUnchanged(c, last)
	}
	return by.after(last.Value.Time), nil
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

// Connector returns the connector of that name with its secret decrypted, or fault NotFound.
func (r *ConnectorReader) Connector(ctx context.Context, name string) (StoredConnector, error) {
	rec, err := connectors.get(ctx, r.reader, name)
	if err != nil {
		return StoredConnector{}, err
	}
	return r.open(rec)
}

// ListConnectors returns all connectors, ordered by name, with their secrets decrypted. It has no pages: a
// cluster has only a few connectors. If one secret cannot be decrypted, it returns that error and no
// connector.
func (r *ConnectorReader) ListConnectors(ctx context.Context) ([]StoredConnector, error) {
	records, err := connectors.all(ctx, r.reader)
	if err != nil {
		return nil, err
	}
	out := make([]StoredConnector, 0, len(records))
	for _, record := range records {
		opened, err := r.open(record)
		if err != nil {
			return nil, err
		}
		out = append(out, opened)
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

// PutConnector writes next as the connector named old.Name, with its secret sealed. It returns fault Conflict
// if old is no longer what is stored. An old with nothing but the name creates the connector, and fails with
// the same fault if there is one. A name that was ever used for another issuer is fault Conflict, too. taken
// are the locks on what next does not give any more, and old did.
func (w *Connectors) PutConnector(
	ctx context.Context, old StoredConnector, next Connector, taken []access.Lock, by By,
	events ...audit.Event,
) error {
	sealed, err := w.secrets.sealText(connectors.prefix+old.Name, next.Secret)
	if err != nil {
		return err
	}
	old.record.Key = old.Name // an old that was not read has no key yet
	return retryOnConflict(func() error {
		var c change
		if err := w.claimIssuer(ctx, &c, old.Name, next.Issuer); err != nil {
			return err
		}
		if len(taken) > 0 {
			issued, err := w.reader.afterIssued(ctx, &c, old.Name, by)
			if err != nil {
				return err
			}
			later := make([]access.Lock, len(taken))
			for i, lock := range taken {
				later[i] = issuedBefore(lock, issued.Time)
			}
			if err := w.reader.putLocks(ctx, &c, by.Time, later...); err != nil {
				return err
			}
		}
		c.appendEvents(events...)
		connectors.replaceOrCreate(&c, old.record, connectorRecord{Connector: next, Sealed: sealed})
		_, err = w.writer.commit(ctx, &c)
		return err
	})
}

// issuedBefore returns the lock with an IssuedBefore that is not before the time.
func issuedBefore(lock access.Lock, t time.Time) access.Lock {
	if !lock.Match.IssuedBefore.Before(t) {
		return lock
	}
	match := lock.Match
	match.IssuedBefore = t
	later := access.NewLock(match, lock.Effect)
	later.Message, later.Author, later.Created, later.End = lock.Message, lock.Author, lock.Created, lock.End
	return later
}

// claimIssuer returns fault Conflict if the connector name belongs to another issuer (see issuerRecord). If
// the name is new, it adds to c that the name belongs to this issuer.
func (w *Connectors) claimIssuer(ctx context.Context, c *change, name, issuer string) error {
	owner, err := connectorIssuers.getOrNew(ctx, w.reader, name)
	switch {
	case err != nil:
		return err
	case owner.Revision == 0: // the name is new
		connectorIssuers.create(c, name, issuerRecord{issuer})
	case owner.Value.Issuer != issuer:
		return connectorIssuerKept.New("state.PutConnector", fault.Args{
			"connector": name,
			"issuer":    owner.Value.Issuer,
		})
	}
	return nil
}

// RemoveConnector removes a connector, and locks what was issued before to those who logged in by it. Its
// users and the issuer of its name stay, in case the connector is created again. It returns fault Conflict if
// old is no longer what is stored.
func (w *Connectors) RemoveConnector(
	ctx context.Context, old StoredConnector, by By, events ...audit.Event,
) error {
	return retryOnConflict(func() error {
		var c change
		by, err := w.reader.afterIssued(ctx, &c, old.Name, by)
		if err != nil {
			return err
		}
		match, deny := access.Facts{Connector: old.Name}, access.Effect{Kind: access.Deny}
		lock := LockOfIssuedBefore(match, deny, by.Time)
		lock.Message, lock.Author = fmt.Sprintf("the connector %s was removed", old.Name), by.Name
		if err := w.reader.putLocks(ctx, &c, by.Time, lock); err != nil {
			return err
		}
		connectors.remove(&c, old.record)
		c.appendEvents(events...)
		_, err = w.writer.commit(ctx, &c)
		return err
	})
}
