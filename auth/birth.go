package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"slices"

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

// createCluster gives birth to the cluster, in one transaction: after a crash there is a whole cluster or
// none.
func (s *Server) createCluster(ctx context.Context, st *state.State) error {
	seal, err := s.openSeal()
	if err != nil {
		return err
	}
	now := s.cfg.Now().UTC()
	var kept memoryStore
	keys, err := keyring.Generate(ctx, s.birth.name, &kept, seal, now)
	if err != nil {
		return err
	}
	defer keys.Wipe()
	root, err := keys.RootSigner()
	if err != nil {
		return err
	}
	first, err := rules.FirstAuthorities(root, s.birth.name, authoritiesOf(keys.Public()), now)
	if err != nil {
		return err
	}
	loginKey := make([]byte, loginKeyBytes)
	defer clear(loginKey)
	_, _ = rand.Read(loginKey) // crypto/rand never fails since Go 1.24
	sealed, err := seal.Seal(state.LoginKeySeal, loginKey)
	if err != nil {
		return err
	}
	err = state.NewVault(st, seal).CreateCluster(ctx, state.InitialRecords{
		Cluster: state.Cluster{Name: s.birth.name, Seal: seal.URI(), Created: now, LoginKey: sealed},
		Keyring: kept.doc, Authorities: first, Roles: s.birth.roles, Connectors: s.birth.connectors,
		Events: []audit.Event{
			{
				Code:   audit.ClusterCreated,
				Time:   now,
				Fields: map[string]string{"cluster": s.birth.name, "pin": keys.Pin().String()},
			},
		},
	})
	if err == nil {
		s.cfg.Log.Info("the cluster was born", "cluster", s.birth.name, "pin", keys.Pin().String())
	}
	return err
}

// openSeal opens the seal the bootstrap file names, and makes it first where it is a file that is missing.
func (s *Server) openSeal() (keyring.Seal, error) {
	u, err := url.Parse(s.birth.seal)
	if err == nil && u.Scheme == "file" {
		if _, err := os.Lstat(u.Path); errors.Is(err, fs.ErrNotExist) {
			if err := keyring.CreateSealFile(u.Path); err != nil {
				return nil, err
			}
			s.cfg.Log.Info(
				"made a new seal key: keep a copy of it elsewhere, nothing opens without it",
				"file",
				u.Path,
			)
		}
	}
	return keyring.OpenSeal(s.birth.seal)
}

// memoryStore takes the keyring's document from keyring.Birth, so that it enters the store together with the
// rest.
type memoryStore struct{ doc []byte }

// Load implements keyring.Store.
func (m *memoryStore) Load(context.Context) ([]byte, error) {
	if m.doc == nil {
		return nil, fault.New(fault.NotFound, "auth.bear", "there is no keyring yet", "give birth to one")
	}
	return m.doc, nil
}

// Save implements keyring.Store.
func (m *memoryStore) Save(_ context.Context, _, doc []byte) error {
	m.doc = slices.Clone(doc)
	return nil
}

// authoritiesOf is the public side of the keys in the form of the authorities document.
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
