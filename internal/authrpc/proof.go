package authrpc

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/threshold-access/threshold/internal/ascii"
	"github.com/threshold-access/threshold/internal/identity"
)

// Challenge returns a hash of tsh's verifier and both public keys (SSH wire format and PKIX DER), which tsh
// sends when it begins a login. To redeem the one-time code at the end it sends verifier and keys themselves.
// So a stolen code is useless without the verifier, and gives certificates for no other keys. This is the
// S256 method of RFC 7636, over all three parts instead of the verifier alone.
func Challenge(verifier string, sshKey, x509Key []byte) string {
	sum := digest("threshold login v1", []byte(verifier), sshKey, x509Key)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// ChallengeMatches reports whether challenge was made from this verifier and these keys. It compares in
// constant time.
func ChallengeMatches(challenge, verifier string, sshKey, x509Key []byte) bool {
	return subtle.ConstantTimeCompare([]byte(challenge), []byte(Challenge(verifier, sshKey, x509Key))) == 1
}

// JoinProof returns the digest that a joining machine signs with its X.509 key (ECDSA over SHA-256). The
// signature shows that the machine holds that key, and that it asks to join with this token and this host
// key.
func JoinProof(token string, sshKey, x509Key []byte) [sha256.Size]byte {
	return digest("threshold join v1", []byte(token), sshKey, x509Key)
}

// digest returns the SHA-256 of the label and the parts. Each part has its length in front, so that different
// lists of parts never give the same input. Each use has a label of its own, so that a signature for one use
// is never valid for another.
func digest(label string, parts ...[]byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(label))
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Token is a join token. It admits one machine of one kind, for a short time. Its text form is
// "thjoin1.KIND.SECRET.PIN".
type Token struct {
	Kind   identity.Kind
	Secret [TokenSecretBytes]byte
	Pin    identity.Pin
}

// TokenSecretBytes is 128 bits.
const TokenSecretBytes = 16

const (
	tokenPrefix  = "thjoin1" // its number is the version of the text form
	maxTokenText = 256       // bytes of text that are parsed; a token has about 90
)

// versionForm is the form of the number at the end of tokenPrefix.
var versionForm = ascii.Form{First: ascii.Of("0-9"), Inner: ascii.Of("0-9"), Max: 4}

// String gives the text form, which is a secret.
func (t Token) String() string {
	e := base64.RawURLEncoding
	return strings.Join(
		[]string{tokenPrefix, string(t.Kind), e.EncodeToString(t.Secret[:]), e.EncodeToString(t.Pin[:])},
		".",
	)
}

// Hash is what the auth service stores of a token. It never stores the secret.
func (t Token) Hash() [sha256.Size]byte {
	return digest("threshold token v1", []byte(t.Kind), t.Secret[:])
}

// ParseToken parses the text form of a token. Space around it is ignored. The token may be unknown to the
// auth service or used already: only the form is checked. Errors never contain the text, which is a secret.
func ParseToken(s string) (Token, error) {
	errNoToken := fmt.Errorf("this is no join token: a token begins with %s and has four parts", tokenPrefix)
	parts := strings.Split(strings.TrimSpace(s), ".")
	version, isToken := strings.CutPrefix(parts[0], "thjoin")
	if isToken && versionForm.Matches(version) && parts[0] != tokenPrefix {
		return Token{}, fmt.Errorf("this join token begins with %s, and this program knows %s: update it",
			parts[0], tokenPrefix)
	}
	if len(s) > maxTokenText || len(parts) != 4 || parts[0] != tokenPrefix {
		return Token{}, errNoToken
	}
	t := Token{Kind: identity.Kind(parts[1])}
	if t.Kind != identity.Node && t.Kind != identity.Proxy {
		return Token{}, errors.New("this join token is for a kind of machine that this program does not " +
			"know: update it")
	}
	secret, err1 := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	pin, err2 := base64.RawURLEncoding.Strict().DecodeString(parts[3])
	if err1 != nil || err2 != nil || len(secret) != TokenSecretBytes || len(pin) != len(t.Pin) {
		return Token{}, errNoToken
	}
	copy(t.Secret[:], secret)
	copy(t.Pin[:], pin)
	return t, nil
}
