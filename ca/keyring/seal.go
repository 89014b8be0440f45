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

// Seal encrypts secrets before they are stored (it seals them), and decrypts them again (it opens them). The
// name is bound to the ciphertext as associated data: what was sealed under one name does not open under
// another.
type Seal interface {
	Seal(name string, plaintext []byte) ([]byte, error)
	Open(name string, sealed []byte) ([]byte, error)
	URI() string // of the seal key; not secret
}

// OpenSeal returns the seal with the key that the URI names. The only kind so far is a key file, such as
// file:///etc/threshold/seal.key; any other URI is fault Invalid. OpenSeal reads the file and checks that no
// other account can read it (readSealFile).
func OpenSeal(rawURI string) (Seal, error) {
	const op, remedy = "keyring.OpenSeal", "name a key file, such as file:///etc/threshold/seal.key"
	parsed, err := uri.Parse(rawURI)
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, op, "the seal is not a key URI", remedy)
	}
	if scheme := strings.ToLower(parsed.Scheme); scheme != "file" {
		msg := fmt.Sprintf("seals of the kind %.40q are not supported, only: file", scheme)
		return nil, fault.New(fault.Invalid, op, msg, remedy)
	}
	onlyPath := parsed.Host == "" && parsed.Opaque == "" && parsed.RawQuery == "" && parsed.Fragment == ""
	if !onlyPath || !strings.HasPrefix(parsed.Path, "/") {
		return nil, fault.New(fault.Invalid, op, "the seal URI is not file:// and an absolute path", remedy)
	}
	key, err := readSealFile(parsed.Path)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		const remedy = "make a new seal key and restore from a backup"
		return nil, fault.Wrap(err, fault.Internal, op, "the seal key cannot be used", remedy)
	}
	return &aeadSeal{uri: uri.NewFile(parsed.Path).String(), aead: func() cipher.AEAD { return aead }}, nil
}

// sealFormat is the first byte of every sealed value: XChaCha20-Poly1305, a random 24-byte nonce, then the
// ciphertext.
const sealFormat = 1

// aeadSeal seals with a key in memory. Nonces are 192 random bits, so none ever repeats in practice.
type aeadSeal struct {
	uri  string
	aead func() cipher.AEAD // a function for the same reason as secret.key
}

func (s *aeadSeal) URI() string { return s.uri }

// String returns the URI of the seal, for logs.
func (s *aeadSeal) String() string { return "seal " + s.uri }

func associatedData(name string) []byte { return append([]byte{sealFormat}, name...) }

// headBytes is what precedes the ciphertext of a sealed value: the format and the nonce.
const headBytes = 1 + chacha20poly1305.NonceSizeX

func (s *aeadSeal) Seal(name string, plaintext []byte) ([]byte, error) {
	out := make([]byte, headBytes, headBytes+len(plaintext)+chacha20poly1305.Overhead)
	out[0] = sealFormat
	_, _ = rand.Read(out[1:]) // crypto/rand never fails since Go 1.24
	return s.aead().Seal(out, out[1:], plaintext, associatedData(name)), nil
}

func (s *aeadSeal) Open(name string, sealed []byte) ([]byte, error) {
	if len(sealed) < headBytes+chacha20poly1305.Overhead || sealed[0] != sealFormat {
		return nil, s.cannotOpen(errors.New("not in a known sealed form"))
	}
	plain, err := s.aead().Open(nil, sealed[1:headBytes], sealed[headBytes:], associatedData(name))
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
		"configure the seal key that this cluster was created with",
	)
}
