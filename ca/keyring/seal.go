package keyring

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"go.step.sm/crypto/kms/uri"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/threshold-access/threshold/internal/fault"
)

// Seal encrypts the data key before it is stored (it wraps it), and decrypts it again. The name is bound to
// the ciphertext as associated data: what was sealed under one name does not open under another.
type Seal interface {
	Seal(name string, plaintext []byte) ([]byte, error)
	Open(name string, sealed []byte) ([]byte, error)
	// ID says which key it is, and is not secret: two seals have the same id only if they have the same key.
	ID() string
	URI() string // of the seal key; not secret
}

// OpenSeal returns the seal with the key that the URI names. The only kind so far is a key file, such as
// file:///etc/threshold/seal.key; any other URI is fault Invalid. OpenSeal reads the file and checks that no
// other account can read it (readSealFile).
func OpenSeal(rawURI string) (Seal, error) {
	parsed, err := uri.Parse(rawURI)
	if err != nil {
		return nil, sealURIInvalid.Wrap(err, opOpenSeal, fault.Args{"why": "it is not a key URI"})
	}
	if scheme := strings.ToLower(parsed.Scheme); scheme != "file" {
		why := fmt.Sprintf("seals of the kind %.40q are not supported, only: file", scheme)
		return nil, sealURIInvalid.New(opOpenSeal, fault.Args{"why": why})
	}
	onlyPath := parsed.Host == "" && parsed.Opaque == "" && parsed.RawQuery == "" && parsed.Fragment == ""
	if !onlyPath || !strings.HasPrefix(parsed.Path, "/") {
		return nil, sealURIInvalid.New(opOpenSeal, fault.Args{"why": "it is not file:// and an absolute path"})
	}
	key, err := readSealFile(parsed.Path)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, sealKeyUnusable.Wrap(err, opOpenSeal)
	}
	return &aeadSeal{
		id:   sealID(key),
		uri:  uri.NewFile(parsed.Path).String(),
		aead: func() cipher.AEAD { return aead },
	}, nil
}

// sealFormat is the first byte of every sealed value: XChaCha20-Poly1305, a random 24-byte nonce, then the
// ciphertext.
const sealFormat = 1

// aeadSeal seals with a key in memory. Nonces are 192 random bits, so none ever repeats in practice.
type aeadSeal struct {
	id   string
	uri  string
	aead func() cipher.AEAD // a function for the same reason as secret.key
}

func (s *aeadSeal) ID() string { return s.id }

func (s *aeadSeal) URI() string { return s.uri }

// sealID is an HMAC with the key as its key, which shows nothing of it.
func sealID(key []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("threshold seal id v1"))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

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
	return sealForeign.Wrap(err, opSecret, fault.Args{"seal": s.uri})
}
