package state

import (
	"context"
)

// Seal keeps secrets at rest. What was sealed under one name opens under no other. ca/keyring's seals are
// ones.
type Seal interface {
	Seal(name string, plaintext []byte) ([]byte, error)
	Open(name string, sealed []byte) ([]byte, error)
}

// Vault reads and writes the records that hold secrets: connectors and second factors. Whoever has only a
// State can read neither, and a stolen disk without the seal shows neither.
type Vault struct {
	state *State
	seal  Seal
}

// NewVault keeps secrets in s under seal.
func NewVault(s *State, seal Seal) *Vault { return &Vault{state: s, seal: seal} }

// sealText seals a secret under the key of its record. An empty secret stays empty.
func (v *Vault) sealText(key, secret string) ([]byte, error) {
	if secret == "" {
		return nil, nil
	}
	return v.seal.Seal(key, []byte(secret))
}

func (v *Vault) openText(key string, sealed []byte) (string, error) {
	if len(sealed) == 0 {
		return "", nil
	}
	plain, err := v.seal.Open(key, sealed)
	return string(plain), err
}

// write stores a record that was read before, or that must still be missing, and its events.
func write[T any](ctx context.Context, s *State, t table[T], old Stored[T], c *change, v T) error {
	t.replaceOrCreate(c, old, v)
	_, err := s.commit(ctx, c)
	return err
}
