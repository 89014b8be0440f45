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

// errFetchedRecently says that no cached key signed the token, and the rate limit forbids another fetch.
var errFetchedRecently = errors.New("the provider's keys were fetched a moment ago")

// keySet is a provider's signing keys. They are fetched when a token names a key that is not known (OpenID
// Connect Core 1.0 section 10.1.1). It is safe for concurrent use.
type keySet struct {
	url    string
	algs   []jose.SignatureAlgorithm
	client *http.Client
	now    func() time.Time

	// fetching is a lock that lets one caller fetch at a time. It is a channel so that a context can give up
	// waiting for it: whoever holds it has sent a token into it. It is taken before mu.
	fetching chan struct{}

	mu         sync.Mutex // guards the fields below; it is not held during a fetch
	limit      *rate.Limiter
	keys       []jose.JSONWebKey // what the last successful fetch returned
	generation int               // counts the successful fetches
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

// VerifySignature returns the payload of a token that one of the provider's keys signed. If no cached key
// did, the provider may have a new key: it fetches the keys and tries once more. The error is a *fetchError
// if the keys could not be fetched, errFetchedRecently if the rate limit forbids it, and otherwise about the
// token.
//
// It implements gooidc.KeySet.
func (k *keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	jws, err := jose.ParseSigned(token, k.algs)
	if err != nil {
		return nil, fmt.Errorf("parse token: %w", err)
	}
	if len(jws.Signatures) != 1 {
		return nil, fmt.Errorf("the token has %d signatures", len(jws.Signatures))
	}
	header := jws.Signatures[0].Protected
	cached, generation := k.cached()
	if payload, ok := verifyWithAny(jws, header, cached); ok {
		return payload, nil
	}
	fetched, err := k.fetchNewer(ctx, generation)
	if err != nil {
		return nil, err
	}
	if payload, ok := verifyWithAny(jws, header, fetched); ok {
		return payload, nil
	}
	return nil, errors.New("no key of the provider signed the token")
}

// errorRecorder is a key set that also keeps the error of the last verification. go-oidc returns only its
// text, but verifyIDToken reports a key set that cannot be fetched otherwise than a bad token.
type errorRecorder struct {
	keys *keySet
	err  error
}

// VerifySignature implements gooidc.KeySet by that of the key set.
func (r *errorRecorder) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := r.keys.VerifySignature(ctx, token)
	r.err = err
	return payload, err
}

// verifyWithAny returns the payload of the token if one of the keys signed it. It tries only keys with the
// key id and the algorithm in the header; a key or header that leaves one out fits any.
func verifyWithAny(jws *jose.JSONWebSignature, header jose.Header, keys []jose.JSONWebKey) ([]byte, bool) {
	for _, key := range keys {
		otherID := header.KeyID != "" && key.KeyID != header.KeyID
		otherAlg := key.Algorithm != "" && key.Algorithm != header.Algorithm
		if otherID || otherAlg {
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

// fetchNewer returns keys that were fetched after those of generation tried. If many logins need a new key at
// the same time, one of them fetches and the others wait for what it gets. The errors are those of fetchKeys.
func (k *keySet) fetchNewer(ctx context.Context, tried int) ([]jose.JSONWebKey, error) {
	select {
	case k.fetching <- struct{}{}:
		defer func() { <-k.fetching }()
	case <-ctx.Done():
		return nil, &fetchError{ctx.Err()}
	}
	// Another login may have fetched while this one waited for the lock.
	if keys, generation := k.cached(); generation > tried {
		return keys, nil
	}
	return k.fetchKeys(ctx)
}

// takeFetch reports whether the rate limit allows a fetch now, and counts it.
func (k *keySet) takeFetch() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.limit.AllowN(k.now(), 1)
}

// fetchKeys requests the provider's key set, stores it as the next generation, and returns the keys. It
// returns errFetchedRecently if the rate limit forbids a request, and a *fetchError if the provider does not
// answer. The caller holds fetching.
func (k *keySet) fetchKeys(ctx context.Context) ([]jose.JSONWebKey, error) {
	if !k.takeFetch() {
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
	body, err := io.ReadAll(resp.Body) // the client's transport bounds the body
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

// parseKeys returns the keys of a JWK set (RFC 7517 section 5) that may verify a token. It skips keys of a
// kind that it does not know, as the RFC says, and those that usableKey refuses.
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
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if json.Unmarshal(raw, &key) == nil && usableKey(key) {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// usableKey reports whether a key may verify a token: it is a public key for signatures, and no short RSA
// key. A symmetric key must not be used, because whoever knows it can also sign.
func usableKey(key jose.JSONWebKey) bool {
	if !key.IsPublic() || key.Use == "enc" {
		return false
	}
	if k, ok := key.Key.(*rsa.PublicKey); ok {
		return k.N.BitLen() >= minRSA
	}
	return true
}
