package oidc

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/time/rate"
)

const (
	maxKeys = 64 // in a key set
	// minRSA is the smallest RSA key that is accepted, in bits (RFC 7518 section 3.3).
	minRSA = 2048
	// Every token with an unknown key id causes a fetch, and attackers can send such tokens. So fetches are
	// limited to a burst, then one every keyEvery.
	keyBurst = 3
	keyEvery = 10 * time.Second
)

var errFetchedRecently = errors.New("the provider's keys were fetched a moment ago")

// keySet is a provider's signing keys. They are fetched when a token names a key that is not known (OpenID
// Connect Core 1.0 section 10.1.1). It is safe for concurrent use.
type keySet struct {
	url    string
	algs   []jose.SignatureAlgorithm
	client *http.Client
	now    func() time.Time

	// fetching is a lock that a context can give up waiting for: whoever fetches has sent a token into it. It
	// is taken before mu.
	fetching chan struct{}

	mu         sync.Mutex // guards what follows; it is not held while fetching
	limit      *rate.Limiter
	keys       []jose.JSONWebKey
	generation int // counts the fetches that succeeded
}

func newKeySet(url string, algs []string, client *http.Client, now func() time.Time) *keySet {
	k := &keySet{
		url:      url,
		client:   client,
		now:      now,
		fetching: make(chan struct{}, 1),
		limit:    rate.NewLimiter(rate.Every(keyEvery), keyBurst),
	}
	for _, a := range algs {
		k.algs = append(k.algs, jose.SignatureAlgorithm(a))
	}
	return k
}

// VerifySignature returns the payload if one of the provider's keys signed the token.
func (k *keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	jws, err := jose.ParseSigned(token, k.algs)
	if err != nil {
		return nil, fmt.Errorf("parse token: %w", err)
	}
	if len(jws.Signatures) != 1 {
		return nil, fmt.Errorf("the token has %d signatures", len(jws.Signatures))
	}
	header := jws.Signatures[0].Protected
	keys, generation := k.cached()
	if payload, ok := verifyWithAny(jws, header, keys); ok {
		return payload, nil
	}
	if keys, err = k.fetchNewer(ctx, generation); err != nil {
		return nil, err
	}
	if payload, ok := verifyWithAny(jws, header, keys); ok {
		return payload, nil
	}
	return nil, errors.New("no key of the provider signed the token")
}

// errorRecorder keeps the error of a verification, because go-oidc keeps only its text.
type errorRecorder struct {
	keys *keySet
	err  error
}

// VerifySignature calls that of the key set.
func (r *errorRecorder) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := r.keys.VerifySignature(ctx, token)
	r.err = err
	return payload, err
}

// verifyWithAny tries every key that fits the header.
func verifyWithAny(jws *jose.JSONWebSignature, header jose.Header, keys []jose.JSONWebKey) ([]byte, bool) {
	for _, key := range keys {
		if header.KeyID != "" && key.KeyID != header.KeyID ||
			key.Algorithm != "" && key.Algorithm != header.Algorithm {
			continue
		}
		if payload, err := jws.Verify(key.Key); err == nil {
			return payload, true
		}
	}
	return nil, false
}

// cached returns the keys that were fetched last, with their generation.
func (k *keySet) cached() (keys []jose.JSONWebKey, generation int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys, k.generation
}

// fetchNewer returns keys that are newer than those of the generation. If many logins need a new key at the
// same time, one of them fetches and the others wait for what it gets.
func (k *keySet) fetchNewer(ctx context.Context, than int) ([]jose.JSONWebKey, error) {
	select {
	case k.fetching <- struct{}{}:
		defer func() { <-k.fetching }()
	case <-ctx.Done():
		return nil, &fetchError{ctx.Err()}
	}
	if keys, generation := k.cached(); generation > than {
		return keys, nil
	}
	return k.fetchKeys(ctx)
}

// mayFetch takes one fetch from the rate limit.
func (k *keySet) mayFetch() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.limit.AllowN(k.now(), 1)
}

// fetchKeys fetches the keys and stores them. The caller holds fetching.
func (k *keySet) fetchKeys(ctx context.Context) ([]jose.JSONWebKey, error) {
	if !k.mayFetch() {
		return nil, errFetchedRecently
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url, nil)
	if err != nil {
		return nil, fmt.Errorf("fetch keys: %w", err)
	}
	resp, err := k.client.Do(r)
	if err != nil {
		return nil, &fetchError{err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, &fetchError{errors.Join(fmt.Errorf("status %s", resp.Status), err)}
	}
	keys, err := parseKeys(body)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys = keys
	k.generation++
	return keys, nil
}

// fetchError says that the provider did not return its keys, as opposed to a token that none of them signed.
type fetchError struct{ err error }

func (e *fetchError) Error() string { return "fetch keys: " + e.err.Error() }
func (e *fetchError) Unwrap() error { return e.err }

// parseKeys reads a JWK set (RFC 7517 section 5). It skips keys of an unknown kind, and those that are not
// for signatures.
func parseKeys(body []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("read keys: %d of them, more than %d", len(set.Keys), maxKeys)
	}
	var out []jose.JSONWebKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if json.Unmarshal(raw, &key) == nil && usableKey(key) {
			out = append(out, key)
		}
	}
	return out, nil
}

// usableKey refuses symmetric keys, encryption keys and short RSA keys. Without symmetric keys, no HMAC can
// verify.
func usableKey(key jose.JSONWebKey) bool {
	if !key.IsPublic() || key.Use == "enc" {
		return false
	}
	if k, ok := key.Key.(*rsa.PublicKey); ok {
		return k.N.BitLen() >= minRSA
	}
	return true
}
