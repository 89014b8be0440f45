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

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/rules"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	signed "github.com/threshold-access/threshold/internal/rules"
)

// loginKeyBytes is the size of the key that seals login attempts.
const loginKeyBytes = 32

// Store commits the first records of a cluster. state.Vault is one.
type Store interface {
	CreateCluster(ctx context.Context, r state.InitialRecords) error
}

// Config says what Create needs; all of it is required.
type Config struct {
	Store Store
	Seal  keyring.Seal // from File.OpenSeal; the private keys and the login key are stored under it
	Now   time.Time    // when the cluster is created; its first certificates begin here
	Log   *slog.Logger
}

// Create generates the keys of the cluster and stores everything that it begins with, in one transaction:
// after a crash the cluster either exists whole or does not exist. A store that holds a cluster already is
// fault Conflict.
func (f *File) Create(ctx context.Context, cfg Config) error {
	now := cfg.Now.UTC()
	var doc memoryStore
	keys, err := keyring.Generate(ctx, f.cluster, &doc, cfg.Seal, now)
	if err != nil {
		return err
	}
	defer keys.Wipe()
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
		Keyring:     doc.keyring,
		Authorities: authorities,
		Roles:       f.roles,
		Connectors:  f.connectors,
		Events: []audit.Event{{
			Code:   audit.ClusterCreated,
			Time:   now,
			Fields: map[string]string{"cluster": f.cluster, "pin": pin},
		}},
	})
	if err == nil {
		cfg.Log.Info("cluster created", "cluster", f.cluster, "pin", pin)
	}
	return err
}

// OpenSeal opens the seal that the file names. A key file that does not exist is created first.
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

// memoryStore is a keyring.Store that holds the document in memory: keyring.Generate saves into it, and
// Create stores the document together with the other records.
type memoryStore struct{ keyring []byte }

// Load implements keyring.Store.
func (m *memoryStore) Load(context.Context) ([]byte, error) {
	if m.keyring == nil {
		return nil, fault.New(fault.NotFound, "bootstrap.Create", "there is no keyring yet", "generate one")
	}
	return m.keyring, nil
}

// Save implements keyring.Store.
func (m *memoryStore) Save(_ context.Context, _, doc []byte) error {
	m.keyring = slices.Clone(doc)
	return nil
}

// authoritiesOf is the body of the authorities document: the public side of the keys.
func authoritiesOf(p keyring.Public) signed.Authorities {
	a := signed.Authorities{
		Root:    p.Root.Raw,
		UserSSH: marshalKeys(p.UserSSH),
		HostSSH: marshalKeys(p.HostSSH),
	}
	for _, c := range p.UserX509 {
		a.UserX509 = append(a.UserX509, c.Raw)
	}
	for _, c := range p.ServiceX509 {
		a.ServiceX509 = append(a.ServiceX509, c.Raw)
	}
	for _, k := range p.Rules {
		a.Rules = append(a.Rules, k)
	}
	return a
}

func marshalKeys(keys []ssh.PublicKey) [][]byte {
	out := make([][]byte, len(keys))
	for i, k := range keys {
		out[i] = k.Marshal()
	}
	return out
}
