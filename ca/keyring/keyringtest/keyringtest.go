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
		return nil, fault.New(fault.NotFound, "keyringtest.Load", "no keyring", "call keyring.Generate first")
	}
	return slices.Clone(s.doc), nil
}

// Save implements keyring.Store.
func (s *Store) Save(_ context.Context, old, doc []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !bytes.Equal(s.doc, old) || (s.doc == nil) != (old == nil) {
		return fault.New(fault.Conflict, "keyringtest.Save", "the keyring changed meanwhile", "load it again")
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
	k, err := keyring.Generate(t.Context(), cluster, new(Store), Seal(t), now)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
