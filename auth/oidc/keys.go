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
	maxKeys = 64
	// minRSA is the smallest RSA key of a provider that counts, in bits (RFC 7518 section 3.3).
	minRSA = 2048
	// A token with a key id that is not known causes a fetch, so fetches are few: a burst, then one every
	// keyEvery.
	keyBurst = 3
	keyEvery = 10 * time.Second
)

var errFetchedRecently = errors.New("the provider's keys were fetched a moment ago")

// keySet is a provider's signing keys, fetched when a token names one that is not known (OpenID Connect Core
// 1.0 section 10.1.1).
type keySet struct {
	url    string
	algs   []jose.SignatureAlgorithm
	client *http.Client
	now    func() time.Time

	fetching chan struct{} // holds a token while somebody fetches

	mu         sync.Mutex // guards what follows; not held while fetching
	limit      *rate.Limiter
	keys       []jose.JSONWebKey
	generation int // counts fetches that succeeded
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

// VerifySignature returns the payload if one of the provider's keys signed it.
func (k *keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	jws, err := jose.ParseSigned(token, k.algs)
	if err != nil {
		return nil, fmt.Errorf("parse token: %w", err)
	}
	if len(jws.Signatures) != 1 {
		return nil, fmt.Errorf("the token has %d signatures", len(jws.Signatures))
	}
	header := jws.Signatures[0].Protected
	keys, age := k.cached()
	if payload, ok := verify(jws, header, keys); ok {
		return payload, nil
	}
	if keys, err = k.fetchNewer(ctx, age); err != nil {
		return nil, err
	}
	if payload, ok := verify(jws, header, keys); ok {
		return payload, nil
	}
	return nil, errors.New("no key of the provider signed the token")
}

// errorRecorder remembers why a verification failed: go-oidc keeps only the words of that error.
type errorRecorder struct {
	keys *keySet
	err  error
}

// VerifySignature is keySet's.
func (a *errorRecorder) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := a.keys.VerifySignature(ctx, token)
	a.err = err
	return payload, err
}

// verify tries every key that the header may mean.
func verify(jws *jose.JSONWebSignature, header jose.Header, keys []jose.JSONWebKey) ([]byte, bool) {
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

func (k *keySet) cached() (keys []jose.JSONWebKey, age int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys, k.generation
}

// fetchNewer returns keys fetched after those of the age. Of many logins that meet a new key at once, one
// fetches and all use what it got.
func (k *keySet) fetchNewer(ctx context.Context, than int) ([]jose.JSONWebKey, error) {
	select {
	case k.fetching <- struct{}{}:
		defer func() { <-k.fetching }()
	case <-ctx.Done():
		return nil, &fetchError{ctx.Err()}
	}
	if keys, age := k.cached(); age > than {
		return keys, nil
	}
	return k.fetch(ctx)
}

func (k *keySet) mayFetch() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.limit.AllowN(k.now(), 1)
}

func (k *keySet) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
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

// fetchError says that the provider did not hand out its keys, as opposed to a token that none of them
// signed.
type fetchError struct{ err error }

func (e *fetchError) Error() string { return "fetch keys: " + e.err.Error() }
func (e *fetchError) Unwrap() error { return e.err }

// parseKeys reads a JWK set (RFC 7517 section 5). A key of a kind that is not understood, or not for
// signatures, is passed over.
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
		if json.Unmarshal(raw, &key) == nil && usable(key) {
			out = append(out, key)
		}
	}
	return out, nil
}

// usable refuses secrets, encryption keys and short RSA keys. A symmetric key is no public one, so HMAC finds
// nothing to verify with.
func usable(key jose.JSONWebKey) bool {
	if !key.IsPublic() || key.Use == "enc" {
		return false
	}
	if k, ok := key.Key.(*rsa.PublicKey); ok {
		return k.N.BitLen() >= minRSA
	}
	return true
}
