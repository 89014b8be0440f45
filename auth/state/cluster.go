package state

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
)

// Cluster is what is fixed when a cluster is created.
type Cluster struct {
	Name     string    `json:"name"`
	Seal     string    `json:"seal"` // key URI of the seal that opens LoginKey and all other secrets
	Created  time.Time `json:"created"`
	LoginKey []byte    `json:"login_key"` // encrypts login attempts; 32 bytes, sealed under LoginKeySeal
}

// LoginKeySeal is the name under which the login key is sealed.
const LoginKeySeal = "threshold/login-key/1"

// clusterKey is the key of the kinds of which a cluster has one record only.
const clusterKey = "self"

const bootstrapRemedy = "run once: threshold start --bootstrap FILE"

var (
	clusters = table[Cluster]{prefix: "cluster/", noun: "cluster", remedy: bootstrapRemedy}
	keyrings = table[json.RawMessage]{prefix: "keyring/", noun: "keyring", remedy: bootstrapRemedy}
)

// Cluster returns the cluster's own record, or fault NotFound before the cluster is created.
func (r *Reader) Cluster(ctx context.Context) (Cluster, error) {
	got, err := clusters.get(ctx, r, clusterKey)
	return got.Value, err
}

// InitialRecords is everything that a new cluster begins with.
type InitialRecords struct {
	Cluster     Cluster
	Keyring     json.RawMessage // the document of ca/keyring, with its private keys sealed
	Authorities Authorities     // the first authorities document
	Roles       []access.Role
	Connectors  []NamedConnector // their secrets are sealed when they are stored
	Events      []audit.Event
}

// NamedConnector is a connector with its name.
type NamedConnector struct {
	Name string
	Connector
}

// CreateCluster stores all records of a new cluster in one transaction, so that a cluster exists whole or not
// at all. The secrets of connectors are sealed before. If the store holds a cluster already, it returns fault
// Conflict and stores nothing.
func (v *Vault) CreateCluster(ctx context.Context, in InitialRecords) error {
	c := change{conflict: clusterStored.New("state.CreateCluster")}
	clusters.create(&c, clusterKey, in.Cluster)
	keyrings.create(&c, clusterKey, in.Keyring)
	authorities.create(&c, in.Authorities.key(), in.Authorities)
	for _, r := range in.Roles {
		roles.create(&c, r.Name, r)
	}
	rulesVersions.create(&c, rolesVersionKey, rulesVersion{Time: in.Cluster.Created})
	rulesVersions.create(&c, settingsVersionKey, rulesVersion{Time: in.Cluster.Created})
	for _, named := range in.Connectors {
		sealed, err := v.secrets.sealText(connectors.prefix+named.Name, named.Secret)
		if err != nil {
			return err
		}
		connectorIssuers.create(&c, named.Name, issuerRecord{named.Issuer})
		connectors.create(&c, named.Name, connectorRecord{Connector: named.Connector, Sealed: sealed})
	}
	c.appendEvents(in.Events...)
	_, err := v.writer.commit(ctx, &c)
	return err
}

// Keyring loads and saves the keyring's document. It is the Store of ca/keyring.
type Keyring struct{ writer }

// Load returns the document, or fault NotFound when the cluster is not created yet.
func (k *Keyring) Load(ctx context.Context) ([]byte, error) {
	got, err := keyrings.get(ctx, k.Reader, clusterKey)
	return got.Value, err
}

// Save replaces old by doc, or creates doc where old is nil. It returns fault Conflict when the stored
// document is not old.
func (k *Keyring) Save(ctx context.Context, old, doc []byte) error {
	stored, err := keyrings.getOrNew(ctx, k.Reader, clusterKey)
	if err != nil {
		return err
	}
	if !bytes.Equal(stored.Value, old) {
		return keyringChanged.New("state.Keyring")
	}
	var c change
	keyrings.replaceOrCreate(&c, stored, doc) // fails if it was written since it was read here
	_, err = k.commit(ctx, &c)
	return err
}
