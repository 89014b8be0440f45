package oidctest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"

	"github.com/go-jose/go-jose/v4"
)

// signer signs with one private key, which also names its algorithm.
type signer struct{ key jose.JSONWebKey }

func (s signer) alg() string { return s.key.Algorithm }

// newSigner makes a signer with a new key for the algorithm: RS256, also if it is empty, or ES256.
func newSigner(alg string) (signer, error) {
	key := jose.JSONWebKey{KeyID: rand.Text()[:8], Use: "sig", Algorithm: alg}
	var err error
	switch alg {
	case "", string(jose.RS256):
		key.Algorithm = string(jose.RS256)
		key.Key, err = rsa.GenerateKey(rand.Reader, 2048)
	case string(jose.ES256):
		key.Key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		err = fmt.Errorf("no keys for %q", alg)
	}
	if err != nil {
		return signer{}, fmt.Errorf("oidctest: make key: %w", err)
	}
	return signer{key}, nil
}

// sign returns the claims, which are JSON, as a signed token in compact form.
func (s signer) sign(claims []byte) (string, error) {
	key := jose.SigningKey{Algorithm: jose.SignatureAlgorithm(s.alg()), Key: s.key}
	joseSigner, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("oidctest: make signer: %w", err)
	}
	signed, err := joseSigner.Sign(claims)
	if err != nil {
		return "", fmt.Errorf("oidctest: sign: %w", err)
	}
	return signed.CompactSerialize()
}

// signer returns the current signer.
func (p *Provider) signer() signer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keys
}

// Rotate replaces the signing key. The old one is no longer published.
func (p *Provider) Rotate() error {
	next, err := newSigner(p.signer().alg())
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = next
	return nil
}

// serveKeys serves the current public key as a JWK set (RFC 7517 section 5).
func (p *Provider) serveKeys(w http.ResponseWriter, _ *http.Request) {
	faults := p.countRequest(func(c *RequestCounts) { c.KeyFetches++ })
	if faults.NoKeys {
		http.Error(w, "no keys", http.StatusInternalServerError)
		return
	}
	current := p.signer()
	writeJSON(w, http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{current.key.Public()}})
}

// idToken returns the ID token for a grant, with the current faults in its claims and its signature.
func (p *Provider) idToken(g grant) (string, error) {
	faults, now := p.currentFaults(), p.now()
	claims := map[string]any{
		"iss":            p.issuer.String(),
		"sub":            g.user.Subject,
		"aud":            g.client,
		"iat":            now.Unix(),
		"exp":            now.Add(tokenLife).Unix(),
		"nonce":          g.nonce,
		"email":          g.user.Email,
		"email_verified": true,
	}
	maps.Copy(claims, g.user.Claims)
	if faults.Claims != nil {
		faults.Claims(claims)
	}
	b, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("oidctest: encode claims: %w", err)
	}
	return p.signAs(faults.Signature, b)
}

// signAs returns the claims as a token that is signed correctly, or wrongly in the way that how says. Each
// wrong way is an attack that a client must notice.
func (p *Provider) signAs(how Signature, claims []byte) (string, error) {
	current := p.signer()
	switch how {
	case Unsigned: // RFC 7519 section 6.1: the third part is empty
		encoding := base64.RawURLEncoding
		header := encoding.EncodeToString([]byte(`{"alg":"none"}`))
		return header + "." + encoding.EncodeToString(claims) + ".", nil
	case PublicKeyAsSecret:
		public, err := x509.MarshalPKIXPublicKey(current.key.Public().Key)
		if err != nil {
			return "", fmt.Errorf("oidctest: %w", err)
		}
		key := jose.JSONWebKey{Key: public, KeyID: current.key.KeyID, Algorithm: string(jose.HS256)}
		return signer{key}.sign(claims)
	case ForeignKey, UnknownKey:
		foreign, err := newSigner(current.alg())
		if err != nil {
			return "", err
		}
		if how == ForeignKey {
			foreign.key.KeyID = current.key.KeyID
		}
		return foreign.sign(claims)
	}
	return current.sign(claims)
}
