package keyring

import (
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"go.step.sm/crypto/kms/uri"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/threshold-access/threshold/internal/fault"
)

// Seal keeps secrets at rest. The name is bound as associated data: what was sealed under one name opens
// under no other.
type Seal interface {
	Seal(name string, plaintext []byte) ([]byte, error)
	Open(name string, sealed []byte) ([]byte, error)
	URI() string // names the key, and is no secret
}

// OpenSeal opens the sealing key that a key URI names. A key file is the one kind there is now:
// file:///etc/threshold/seal.key.
func OpenSeal(rawURI string) (Seal, error) {
	u, err := uri.Parse(rawURI)
	if err != nil {
		return nil, fault.Wrap(
			err,
			fault.Invalid,
			"keyring.OpenSeal",
			"the seal is not a key URI",
			"name a key file, as file:///etc/threshold/seal.key",
		)
	}
	if scheme := strings.ToLower(u.Scheme); scheme != "file" {
		return nil, fault.New(
			fault.Invalid,
			"keyring.OpenSeal",
			fmt.Sprintf("there is no seal of the kind %.40q; what exists: file", scheme),
			"name a key file, as file:///etc/threshold/seal.key",
		)
	}
	if u.Host != "" || u.Opaque != "" || u.RawQuery != "" || u.Fragment != "" ||
		!strings.HasPrefix(u.Path, "/") {
		return nil, fault.New(
			fault.Invalid,
			"keyring.OpenSeal",
			"the seal URI is not file:// and an absolute path",
			"write it as file:///etc/threshold/seal.key",
		)
	}
	key, err := readSealFile(u.Path)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fault.Wrap(
			err,
			fault.Internal,
			"keyring.OpenSeal",
			"the seal key cannot be used",
			"make a new seal key and restore from a backup",
		)
	}
	return &aeadSeal{uri: uri.NewFile(u.Path).String(), aead: func() cipher.AEAD { return aead }}, nil
}

// sealFormat is the first byte of every sealed value: XChaCha20-Poly1305, a random 24-byte nonce, then the
// ciphertext.
const sealFormat = 1

// aeadSeal seals with a key in memory. With random nonces of 192 bits a repeat is out of reach.
type aeadSeal struct {
	uri  string
	aead func() cipher.AEAD // behind a function for the reason that secret gives
}

func (s *aeadSeal) URI() string { return s.uri }

// String names the seal in logs.
func (s *aeadSeal) String() string { return "seal " + s.uri }

func associatedData(name string) []byte { return append([]byte{sealFormat}, name...) }

func (s *aeadSeal) Seal(name string, plaintext []byte) ([]byte, error) {
	out := make(
		[]byte,
		1+chacha20poly1305.NonceSizeX,
		1+chacha20poly1305.NonceSizeX+len(plaintext)+chacha20poly1305.Overhead,
	)
	out[0] = sealFormat
	_, _ = rand.Read(out[1:]) // crypto/rand never fails since Go 1.24
	return s.aead().Seal(out, out[1:], plaintext, associatedData(name)), nil
}

func (s *aeadSeal) Open(name string, sealed []byte) ([]byte, error) {
	const head = 1 + chacha20poly1305.NonceSizeX
	if len(sealed) < head+chacha20poly1305.Overhead || sealed[0] != sealFormat {
		return nil, s.cannotOpen(errors.New("not in a known sealed form"))
	}
	plain, err := s.aead().Open(nil, sealed[1:head], sealed[head:], associatedData(name))
	if err != nil {
		return nil, s.cannotOpen(err)
	}
	return plain, nil
}

func (s *aeadSeal) cannotOpen(err error) error {
	return fault.Wrap(
		err,
		fault.Invalid,
		"keyring.Seal",
		"the seal "+s.uri+" does not open this secret: it is another key, or the secret was altered",
		"point the configuration at the seal key this cluster was born with",
	)
}
