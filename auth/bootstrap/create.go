package bootstrap

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/threshold-access/threshold/auth/rules"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	signed "github.com/threshold-access/threshold/internal/rules"
)

// loginKeyBytes is the size of the login key, which seals (encrypts) login attempts.
const loginKeyBytes = 32

// Store commits the first records of a cluster. state.Vault is one.
type Store interface {
	CreateCluster(ctx context.Context, r state.InitialRecords) error
}

// Config says what Create needs; all of it is required.
type Config struct {
	Store Store
	Seal  keyring.Seal // from File.OpenSeal; encrypts the private keys and the login key
	Now   time.Time    // when the cluster is created; its first certificates begin here
	Log   *slog.Logger
}

// Create generates the keys of the cluster and stores everything that a cluster begins with: its record, the
// sealed keys, the signed authorities, the file's roles and connectors, and the first audit event. All is
// stored in one transaction: after a crash the cluster either exists whole or does not exist. If the store
// holds a cluster already, Create returns fault Conflict and changes nothing.
func (f *File) Create(ctx context.Context, cfg Config) error {
	now := cfg.Now.UTC()
	var generated memoryStore
	keys, err := keyring.Generate(ctx, f.cluster, &generated, cfg.Seal, now)
	if err != nil {
		return err
	}
	defer keys.Wipe() // auth opens them again from the store, as after a restart
	root, err := keys.RootSigner()
	if err != nil {
		return err
	}
	authorities, err := rules.FirstAuthorities(root, f.cluster, authoritiesOf(keys.Public()), now)
	if err != nil {
		return err
	}
	loginKey, err := newLoginKey(cfg.Seal)
	if err != nil {
		return err
	}
	pin := keys.Pin().String()
	err = cfg.Store.CreateCluster(ctx, state.InitialRecords{
		Cluster:     state.Cluster{Name: f.cluster, Seal: cfg.Seal.URI(), Created: now, LoginKey: loginKey},
		Keyring:     generated.document,
		Authorities: authorities,
		Roles:       f.roles,
		Connectors:  f.connectors,
		Events: []audit.Event{
			audit.New(now, identity.Identity{}, audit.ClusterCreation{Cluster: f.cluster, Pin: pin}),
		},
	})
	if err == nil {
		cfg.Log.Info("cluster created", "cluster", f.cluster, "pin", pin)
	}
	return err
}

// OpenSeal opens the seal whose key URI is in the bootstrap file, and returns it. If the URI names a key file
// that does not exist, OpenSeal first creates one with a new random key.
func (f *File) OpenSeal(log *slog.Logger) (keyring.Seal, error) {
	u, err := url.Parse(f.seal)
	if err == nil && u.Scheme == "file" {
		if _, err := os.Lstat(u.Path); errors.Is(err, fs.ErrNotExist) {
			if err := keyring.CreateSealFile(u.Path); err != nil {
				return nil, err
			}
			log.Info("seal key created: keep a copy elsewhere, without it the data folder cannot be opened",
				"file", u.Path)
		}
	}
	return keyring.OpenSeal(f.seal)
}

// newLoginKey draws the key that seals login attempts, and returns it sealed.
func newLoginKey(seal keyring.Seal) ([]byte, error) {
	key := make([]byte, loginKeyBytes)
	defer clear(key)
	_, _ = rand.Read(key) // crypto/rand never fails since Go 1.24
	return seal.Seal(state.LoginKeySeal, key)
}

// memoryStore is a keyring.Store that holds the keyring's document in memory: keyring.Generate saves into it,
// and Create stores the document together with the other records.
type memoryStore struct{ document []byte }

// Load implements keyring.Store.
func (m *memoryStore) Load(context.Context) ([]byte, error) {
	if m.document == nil {
		return nil, fault.New(fault.NotFound, "bootstrap.Create", "there is no keyring yet", "generate one")
	}
	return m.document, nil
}

// Save implements keyring.Store.
func (m *memoryStore) Save(_ context.Context, _, doc []byte) error {
	m.document = slices.Clone(doc)
	return nil
}

// authoritiesOf is the body of the first authorities document: the public keys and certificates of all
// authorities, of which a new cluster has one each.
func authoritiesOf(public keyring.Public) signed.Authorities {
	const generation = 1
	return signed.Authorities{Root: public.Root.Raw, Keys: []signed.AuthorityKey{
		signed.SSHKey(signed.UserSSH, generation, signed.Active, public.UserSSH[0]),
		signed.SSHKey(signed.HostSSH, generation, signed.Active, public.HostSSH[0]),
		signed.X509Key(signed.UserX509, generation, signed.Active, public.UserX509[0]),
		signed.X509Key(signed.ServiceX509, generation, signed.Active, public.ServiceX509[0]),
		signed.SigningKey(generation, signed.Active, public.Rules[0]),
	}}
}
