package login

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/threshold-access/threshold/internal/wire"
)

// stage says how far an attempt has come. It is authenticated together with the sealed bytes, so an attempt
// of one stage does not open as one of another.
type stage string

const (
	stageBegun      stage = "begun"
	stageIdentified stage = "identified"
	stageHeadless   stage = "headless"
)

const (
	// sealVersion is the first byte of a sealed attempt. XChaCha20-Poly1305 follows: a random nonce of 24
	// bytes, then the ciphertext. sealHeader is how many bytes precede the ciphertext.
	sealVersion = 1
	sealHeader  = 1 + chacha20poly1305.NonceSizeX
	// maxAttempt bounds a sealed attempt as text, in bytes. With name and attributes it must fit into a
	// cookie of 4096 bytes (RFC 6265 section 6.1).
	maxAttempt = 3800
)

const startAgain = "start again: tsh login"

// sealer encrypts and authenticates attempts for the browser's cookie, so that a browser can neither read nor
// alter them. Nonces of 24 bytes are long enough to be drawn at random for every attempt under one key.
type sealer struct{ aead cipher.AEAD }

func newSealer(key []byte) (sealer, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return sealer{}, attemptKeyInvalid.Wrap(err, "login.New")
	}
	return sealer{aead}, nil
}

// associatedData is authenticated with the ciphertext, so that it opens only as an attempt of the stage.
func associatedData(st stage) []byte { return []byte("threshold login attempt\x00" + string(st)) }

// seal returns an attempt as sealed text, which open reverses. The text is URL-safe, because a headless
// handle is part of a link. An attempt that would not fit into a cookie gets fault Exhausted.
func (s sealer) seal(op string, st stage, attempt any) (string, error) {
	plain, err := json.Marshal(attempt)
	if err != nil {
		return "", attemptNotSealed.Wrap(err, op)
	}
	b := make([]byte, sealHeader, sealHeader+len(plain)+chacha20poly1305.Overhead)
	b[0] = sealVersion
	nonce := b[1:]
	_, _ = rand.Read(nonce) // crypto/rand never fails since Go 1.24
	text := base64.RawURLEncoding.EncodeToString(s.aead.Seal(b, nonce, plain, associatedData(st)))
	if len(text) > maxAttempt {
		return "", attemptTooLarge.New(op)
	}
	return text, nil
}

// open decrypts a sealed attempt of the stage into the value that into points to. It returns fault Invalid if
// text is empty, was altered, or was sealed by another cluster or at another stage, or by a release whose
// attempts this one cannot use, and fault Expired if the attempt is too old. What decrypts was sealed by a
// replica of this cluster, so the content needs no further check.
func (s sealer) open(op string, st stage, text string, now time.Time, into sealed) error {
	if text == "" {
		return attemptMissing.New(op)
	}
	if len(text) > maxAttempt {
		return foreignAttemptFault(op, nil)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < sealHeader || b[0] != sealVersion {
		return foreignAttemptFault(op, err)
	}
	nonce, ciphertext := b[1:sealHeader], b[sealHeader:]
	plain, err := s.aead.Open(nil, nonce, ciphertext, associatedData(st))
	if err != nil {
		return foreignAttemptFault(op, err)
	}
	if err := decode(op, plain, into); err != nil {
		return err
	}
	if !now.Before(into.expiresAt()) {
		return attemptExpired.New(op)
	}
	return nil
}

// sealed is an attempt of any stage, as the browser's cookie or a link has it.
type sealed interface {
	versioned
	expiresAt() time.Time
}

// formatVersion is the version of everything in this package that is sealed or stored.
const formatVersion = 1

// format is the version of a structure, and the fields that a reader must know to use it (internal/wire).
type format struct {
	V        int           `json:"v"`
	Critical wire.Critical `json:"critical,omitempty"`
}

// currentFormat is the format of what this release writes.
var currentFormat = format{V: formatVersion}

func (f *format) header() *format { return f }

// versioned is a structure that has a format.
type versioned interface{ header() *format }

// decode reads a structure that a replica of this cluster has encrypted. It returns fault Invalid if the
// replica runs a release whose structures this one cannot use.
func decode(op string, b []byte, into versioned) error {
	if err := json.Unmarshal(b, into); err != nil {
		return foreignAttemptFault(op, err)
	}
	h := into.header()
	return wire.Check("this login attempt", h.V, formatVersion, h.Critical, wire.Fields(into)...)
}

// foreignAttemptFault is the one error for text that was altered, made by another cluster, or sealed at
// another stage. cause is only for the log.
func foreignAttemptFault(op string, cause error) error {
	return attemptForeign.New(op).Because(cause)
}
