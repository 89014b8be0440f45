package oidc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/threshold-access/threshold/internal/fault"
)

const (
	// metadataTTL is how long a discovery document is used before it is fetched again.
	metadataTTL = time.Hour
	// maxMetadataAge is how long it is used while it cannot be fetched again. Logins go on when only the
	// discovery of a provider fails for some time.
	maxMetadataAge = 24 * time.Hour
	// retryAfter spares a provider that fails: until then every login gets the same error.
	retryAfter = 2 * time.Second
)

// acceptedAlgs are the signature algorithms that are accepted for ID tokens. "none" and the HMAC family are
// missing: with those, anyone who knows the client secret or a public key could make a token.
var acceptedAlgs = []string{
	gooidc.RS256, gooidc.RS384, gooidc.RS512, gooidc.ES256, gooidc.ES384, gooidc.ES512,
	gooidc.PS256, gooidc.PS384, gooidc.PS512, gooidc.EdDSA,
}

// metadata is what a checked discovery document says of a provider. It does not change once currentMetadata
// has returned it; only refresh sets its fetchedAt and keys, before that.
type metadata struct {
	endpoint    oauth2.Endpoint
	algs        []string // accepted for ID tokens: those of acceptedAlgs that the provider offers
	keys        *keySet
	sendsIssuer bool // RFC 9207: the provider sends its issuer beside every code
	fetchedAt   time.Time
}

// provider talks to the identity provider of one connector, as one revision of the connector describes it. It
// caches the provider's metadata. It is safe for concurrent use.
type provider struct {
	name     string // of the connector
	spec     Spec
	revision uint64
	client   *http.Client
	now      func() time.Time

	// fetching is a lock that guards the fields below. It is a channel so that a context can give up waiting
	// for it: whoever holds it has sent a token into it. It is held during a fetch, so that only one caller
	// fetches and the others wait for what it gets.
	fetching chan struct{}
	meta     *metadata // nil: never fetched
	fetchErr error     // of the last fetch; nil if it succeeded
	retryAt  time.Time // after a failed fetch: none is tried before
}

func newProvider(
	name string, spec Spec, revision uint64, client *http.Client, now func() time.Time,
) *provider {
	return &provider{
		name:     name,
		spec:     spec,
		revision: revision,
		client:   client,
		now:      now,
		fetching: make(chan struct{}, 1),
	}
}

// currentMetadata returns the provider's metadata. It fetches it if there is none or it is older than
// metadataTTL. If the fetch fails, it returns the old metadata up to maxMetadataAge, and then the error of
// the fetch. Callers wait for a fetch that is in progress, or until ctx ends.
func (p *provider) currentMetadata(ctx context.Context) (*metadata, error) {
	select {
	case p.fetching <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-p.fetching }()
	now := p.now()
	if p.meta != nil && now.Sub(p.meta.fetchedAt) < metadataTTL {
		return p.meta, nil
	}
	if p.fetchErr == nil || !now.Before(p.retryAt) {
		p.refresh(ctx, now)
	}
	if p.meta != nil && now.Sub(p.meta.fetchedAt) < maxMetadataAge {
		return p.meta, nil
	}
	return nil, p.fetchErr
}

// refresh fetches the metadata and keeps the result: the metadata, or the error and when to try again. The
// caller holds fetching.
func (p *provider) refresh(ctx context.Context, now time.Time) {
	meta, err := p.fetchMetadata(ctx)
	if err != nil {
		// If this caller gave up, the error says nothing about the provider: the next caller tries at once.
		if ctx.Err() == nil {
			p.retryAt = now.Add(retryAfter)
		}
		p.fetchErr = err
		return
	}
	meta.fetchedAt = now
	if p.meta != nil && p.meta.keys.url == meta.keys.url {
		meta.keys = p.meta.keys // keep the fetched keys and the rate limit
	}
	p.meta, p.fetchErr = meta, nil
}

// fetchMetadata requests the provider's discovery document and returns the metadata in it, without storing
// anything in p. If there is no usable answer, or the document names another issuer or cannot be used, the
// error is fault Unavailable.
func (p *provider) fetchMetadata(ctx context.Context) (*metadata, error) {
	found, err := gooidc.NewProvider(gooidc.ClientContext(ctx, p.client), p.spec.Issuer)
	var mismatch *gooidc.IssuerMismatchError
	switch {
	case errors.As(err, &mismatch):
		return nil, p.misconfiguredFault(err,
			fmt.Sprintf("it says that its issuer is %.120q", mismatch.Discovered))
	case err != nil:
		return nil, p.unreachableFault(err)
	}
	// NewProvider reports a document that is not JSON as an error, which counts as no answer: often a gateway
	// in front of the provider sent it. A field of the wrong type is found only here, and counts the same.
	var doc discoveryDocument
	if err := found.Claims(&doc); err != nil {
		return nil, p.unreachableFault(err)
	}
	meta, err := doc.toMetadata(p.client, p.now)
	if err != nil {
		return nil, p.misconfiguredFault(err, err.Error())
	}
	return meta, nil
}

// unreachableFault is the error for a provider that does not answer, or answers something that cannot be
// decoded. Another try may succeed.
func (p *provider) unreachableFault(err error) error {
	return providerUnreachable.Wrap(truncateError(err), opStart, fault.Args{
		"provider": p.display(),
		"issuer":   p.spec.Issuer,
	})
}

// misconfiguredFault is the error for a provider that answers, but with which no login is possible before an
// administrator corrects the connector or the provider. problem ends the message: "the identity provider ...
// cannot be used: it offers none of the signature algorithms".
func (p *provider) misconfiguredFault(err error, problem string) error {
	return providerMisconfigured.Wrap(truncateError(err), opStart, fault.Args{
		"provider":  p.display(),
		"problem":   problem,
		"connector": p.name,
	})
}

// maxCause bounds what a provider's response adds to our log, in bytes.
const maxCause = 500

// truncateError shortens errors of libraries, which quote whole response bodies.
func truncateError(err error) error {
	if text := err.Error(); len(text) > maxCause {
		return errors.New(strings.ToValidUTF8(text[:maxCause], "") + "…")
	}
	return err
}

// display is the name of the provider in messages.
func (p *provider) display() string {
	if p.spec.Display != "" {
		return p.spec.Display
	}
	return p.name
}

// discoveryDocument is the part of a discovery document that is used (OpenID Connect Discovery 1.0 section
// 3).
type discoveryDocument struct {
	AuthURL   string   `json:"authorization_endpoint"`
	TokenURL  string   `json:"token_endpoint"`
	KeysURL   string   `json:"jwks_uri"`
	Algs      []string `json:"id_token_signing_alg_values_supported"`
	TokenAuth []string `json:"token_endpoint_auth_methods_supported"` // empty means client_secret_basic
	SendsIss  bool     `json:"authorization_response_iss_parameter_supported"`
}

// toMetadata checks the document and returns what it says, with an empty key set. It refuses addresses that
// are no URL or not encrypted, and a provider that offers none of acceptedAlgs.
func (d discoveryDocument) toMetadata(client *http.Client, now func() time.Time) (*metadata, error) {
	for _, endpoint := range []struct{ name, url string }{
		{"authorization_endpoint", d.AuthURL},
		{"token_endpoint", d.TokenURL},
		{"jwks_uri", d.KeysURL},
	} {
		u, err := url.Parse(endpoint.url)
		if err != nil || u.Host == "" || u.User != nil || len(endpoint.url) > maxURL {
			return nil, fmt.Errorf("its %s %.120q is not a valid address", endpoint.name, endpoint.url)
		}
		if err := checkScheme(u); err != nil {
			return nil, fmt.Errorf("its %s: %w", endpoint.name, err)
		}
	}
	algs, err := d.commonAlgs()
	if err != nil {
		return nil, err
	}
	return &metadata{
		endpoint:    oauth2.Endpoint{AuthURL: d.AuthURL, TokenURL: d.TokenURL, AuthStyle: d.authStyle()},
		algs:        algs,
		keys:        newKeySet(d.KeysURL, algs, client, now),
		sendsIssuer: d.SendsIss,
	}, nil
}

// commonAlgs returns the accepted signature algorithms that the provider offers, and an error if there are
// none. A provider that lists none offers RS256, which every provider must support (OpenID Connect Core 1.0
// section 15.1).
func (d discoveryDocument) commonAlgs() ([]string, error) {
	if len(d.Algs) == 0 {
		return []string{gooidc.RS256}, nil
	}
	var common []string
	for _, alg := range acceptedAlgs {
		if slices.Contains(d.Algs, alg) {
			common = append(common, alg)
		}
	}
	if len(common) == 0 {
		return nil, fmt.Errorf("it offers none of the signature algorithms %v", acceptedAlgs)
	}
	return common, nil
}

// authStyle returns how the client secret is sent to the token endpoint: in the header if the provider allows
// it, otherwise in the body.
func (d discoveryDocument) authStyle() oauth2.AuthStyle {
	if len(d.TokenAuth) == 0 || slices.Contains(d.TokenAuth, "client_secret_basic") {
		return oauth2.AuthStyleInHeader
	}
	return oauth2.AuthStyleInParams
}
