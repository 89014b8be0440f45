package keyring

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"sync"
)

// secret is a private key that signs and shows nothing of itself: not in fmt, not in JSON, not in a log.
//
// The key is behind a function because fmt prints unexported fields of a struct without calling their Format
// method. Of a function it prints only the address.
type secret struct {
	pub crypto.PublicKey

	mu  sync.RWMutex         // guards key; held for reading during a signature, so wipe waits for it
	key func() crypto.Signer // nil after wipe
}

func newSecret(key crypto.Signer) *secret {
	return &secret{pub: key.Public(), key: func() crypto.Signer { return key }}
}

func (s *secret) Public() crypto.PublicKey { return s.pub }

func (s *secret) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.key == nil {
		return nil, errors.New("the key was wiped")
	}
	return s.key().Sign(rand, digest, opts)
}

// reveal returns the key itself, and nil after wipe.
func (s *secret) reveal() crypto.Signer {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.key == nil {
		return nil
	}
	return s.key()
}

// wipe overwrites the key. Sign fails from then on.
func (s *secret) wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key == nil {
		return
	}
	switch k := s.key().(type) {
	case ed25519.PrivateKey:
		clear(k)
	case *ecdsa.PrivateKey:
		//lint:ignore SA1019 D is deprecated for reading keys out; overwriting it is the point here
		clear(k.D.Bits())
	}
	s.key = nil
}

func (s *secret) String() string { return fmt.Sprintf("[%T, private]", s.pub) }

// Format prints String for every verb of fmt.
func (s *secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

func (s *secret) MarshalJSON() ([]byte, error) { return []byte(`"[private]"`), nil }
