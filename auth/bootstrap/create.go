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

	"github.com/threshold-access/threshold/auth/authorities"
	"github.com/threshold-access/threshold/auth/rules"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/identity"
)

// loginKeyBytes is the size of the login key, which seals (encrypts) login attempts.
const loginKeyBytes = 32

// Store commits the first records of a cluster. state.Vault is one.
type Store interface {
	CreateCluster(ctx context.Context, r state.InitialRecords) error
}

// Config says what Create needs; all of it is required.
type Config struct {
	// Store returns the store that seals its secrets by these.
	Store func(secrets state.Seal) Store
	Seal  keyring.Seal // from File.OpenSeal; wraps the data key
	Now   time.Time    // when the cluster is created; its first certificates begin here
	Log   *slog.Logger
	// KeepRoot takes the root key of the new cluster to where it is kept, durably, before the cluster exists:
	// a cluster whose root is lost cannot be made. It is not called if the file says RootInStore.
	KeepRoot func(*keyring.RootKey) error
}

// Create generates the keys of the cluster and stores everything that a cluster begins with: its record, the
// sealed keys, the signed authorities, the file's roles and connectors, and the first audit event. All is
// stored in one transaction: after a crash the cluster either exists whole or does not exist. If the store
// holds a cluster already, Create returns fault Conflict and changes nothing.
func (f *File) Create(ctx context.Context, cfg Config) error {
	now := cfg.Now.UTC()
	var generated memoryStore
	keys, root, err := keyring.Generate(ctx, keyring.NewCluster{
		Cluster:     f.cluster,
		Store:       &generated,
		Seal:        cfg.Seal,
		Now:         now,
		RootInStore: f.rootStored,
	})
	if err != nil {
		return err
	}
	defer root.Wipe()
	defer keys.Wipe() // auth opens them again from the store, as after a restart
	records, err := f.records(keys, root, generated.document, cfg.Seal.URI(), now)
	if err != nil {
		return err
	}
	if !f.rootStored {
		if err := cfg.KeepRoot(root); err != nil {
			return err
		}
	}
	if err := cfg.Store(keys.Secrets()).CreateCluster(ctx, records); err != nil {
		return err
	}
	cfg.Log.Info("cluster created", "cluster", f.cluster, "pin", keys.Pin().String())
	return nil
}

// records returns everything that the cluster begins with.
func (f *File) records(
	keys *keyring.Keyring, root *keyring.RootKey, document []byte, seal string, now time.Time,
) (state.InitialRecords, error) {
	body, err := authorities.Of(keys)
	if err != nil {
		return state.InitialRecords{}, err
	}
	first, err := rules.FirstAuthorities(root.Signer(), f.cluster, body, now)
	if err != nil {
		return state.InitialRecords{}, err
	}
	loginKey, err := newLoginKey(keys.Secrets())
	if err != nil {
		return state.InitialRecords{}, err
	}
	return state.InitialRecords{
		Cluster:     state.Cluster{Name: f.cluster, Seal: seal, Created: now, LoginKey: loginKey},
		Keyring:     document,
		Authorities: first,
		Roles:       f.roles,
		Connectors:  f.connectors,
		Events: []audit.Event{audit.New(now, identity.Identity{}, audit.ClusterCreation{
			Cluster: f.cluster,
			Pin:     keys.Pin().String(),
		})},
	}, nil
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
func newLoginKey(secrets *keyring.Secrets) ([]byte, error) {
	key := make([]byte, loginKeyBytes)
	defer clear(key)
	_, _ = rand.Read(key) // crypto/rand never fails since Go 1.24
	return secrets.Seal(state.LoginKeySeal, key)
}

// memoryStore is a keyring.Store that holds the keyring's document in memory: keyring.Generate saves into it,
// and Create stores the document together with the other records.
type memoryStore struct{ document []byte }

// Load implements keyring.Store.
func (m *memoryStore) Load(context.Context) ([]byte, error) {
	if m.document == nil {
		return nil, keyringNone.New("bootstrap.Create")
	}
	return m.document, nil
}

// Save implements keyring.Store.
func (m *memoryStore) Save(_ context.Context, _, doc []byte) error {
	m.document = slices.Clone(doc)
	return nil
}
