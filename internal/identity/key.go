package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// RSA sizes in bits. A shorter key is weak; a longer one only costs verifiers time (CVE-2026-39829).
const (
	minRSA = 3072
	maxRSA = 8192
)

// CheckKey returns an error unless key is one of those that certificates may contain: an Ed25519 key, an
// ECDSA key on P-256 or P-384, or an RSA key of minRSA to maxRSA bits with an exponent that is not weak.
func CheckKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return fmt.Errorf("an Ed25519 key must have %d bytes", ed25519.PublicKeySize)
		}
		return nil
	case *ecdsa.PublicKey:
		if k == nil || (k.Curve != elliptic.P256() && k.Curve != elliptic.P384()) {
			return errors.New("an ECDSA key must be on P-256 or P-384")
		}
		if _, err := k.ECDH(); err != nil {
			return fmt.Errorf("the ECDSA key is not a point on its curve: %w", err)
		}
		return nil
	case *rsa.PublicKey:
		if !isAcceptedRSA(k) {
			const msg = "an RSA key must have %d to %d bits and an odd exponent of at least 65537"
			return fmt.Errorf(msg, minRSA, maxRSA)
		}
		return nil
	}
	return fmt.Errorf("a key of type %T is not accepted: use Ed25519, ECDSA P-256 or P-384, or RSA", key)
}

// isAcceptedRSA reports whether size, modulus and exponent of the key are acceptable. An even modulus or
// exponent belongs to no real key.
func isAcceptedRSA(k *rsa.PublicKey) bool {
	return k != nil && k.N != nil && k.N.BitLen() >= minRSA && k.N.BitLen() <= maxRSA && k.N.Bit(0) == 1 &&
		k.E >= 65537 && k.E&1 == 1
}

// CheckSSHKey is CheckKey for a key in the form of package ssh. It also returns an error for nil, for a
// certificate in place of a plain key, and for key types that are no keys of ours, as those of hardware
// tokens.
func CheckSSHKey(key ssh.PublicKey) error {
	if key == nil {
		return errors.New("there is no key")
	}
	if _, nested := key.(*ssh.Certificate); nested {
		return errors.New("there is a certificate where a plain key is expected")
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoRSA:
	default:
		return fmt.Errorf("a key of type %.80q is not accepted: use ssh-ed25519", key.Type())
	}
	plain, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return fmt.Errorf("a key of type %.80q cannot be examined", key.Type())
	}
	return CheckKey(plain.CryptoPublicKey())
}
