// Package keyringtest answers: how does a test get a keyring without a replicated store?
package keyringtest

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/internal/fault"
)

// What the store answers.
var (
	errNoKeyring = &fault.Error{Kind: fault.NotFound, Msg: "no keyring", Remedy: "call keyring.Generate"}
	errChanged   = &fault.Error{Kind: fault.Conflict, Msg: "the keyring changed", Remedy: "load it again"}
)

// Store is a keyring.Store in memory. The zero value has no keyring yet.
type Store struct {
	mu  sync.Mutex // guards doc
	doc []byte
}

// Load implements keyring.Store.
func (s *Store) Load(context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.doc == nil {
		return nil, errNoKeyring
	}
	return slices.Clone(s.doc), nil
}

// Save implements keyring.Store.
func (s *Store) Save(_ context.Context, old, doc []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !bytes.Equal(s.doc, old) || (s.doc == nil) != (old == nil) {
		return errChanged
	}
	s.doc = slices.Clone(doc)
	return nil
}

// Seal makes a seal key file in a temporary folder and opens it.
func Seal(t testing.TB) keyring.Seal {
	t.Helper()
	path := filepath.Join(t.TempDir(), "seal.key")
	if err := keyring.CreateSealFile(path); err != nil {
		t.Fatal(err)
	}
	seal, err := keyring.OpenSeal("file://" + path)
	if err != nil {
		t.Fatal(err)
	}
	return seal
}

// New generates the keys of a cluster at the time now.
func New(t testing.TB, cluster string, now time.Time) *keyring.Keyring {
	t.Helper()
	keys, _ := NewWithRoot(t, cluster, now)
	return keys
}

// NewWithRoot generates the keys of a cluster, and returns its root key too.
func NewWithRoot(t testing.TB, cluster string, now time.Time) (*keyring.Keyring, *keyring.RootKey) {
	t.Helper()
	keys, root, err := keyring.Generate(t.Context(), keyring.NewCluster{
		Cluster: cluster,
		Store:   new(Store),
		Seal:    Seal(t),
		Now:     now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys, root
}

// Secrets makes the secrets of a cluster.
func Secrets(t testing.TB) *keyring.Secrets {
	t.Helper()
	return New(t, "example.com", time.Now()).Secrets()
}
