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

// metadata is a checked discovery document. Only its fetchedAt and keys are set later, by refresh, before
// others see it.
type metadata struct {
	endpoint    oauth2.Endpoint
	algs        []string
	keys        *keySet
	sendsIssuer bool // RFC 9207: the provider sends its issuer beside every code
	fetchedAt   time.Time
}

// provider is one revision of a connector, with the metadata of its provider. It is safe for concurrent use.
type provider struct {
	name     string
	spec     Spec
	revision uint64
	client   *http.Client
	now      func() time.Time

	// fetching guards what follows. It is a channel so that a context can give up waiting for it: whoever holds
	// it has sent a token into it. It is held while metadata is fetched, so only one caller fetches.
	fetching chan struct{}
	meta     *metadata
	fetchErr error // of the last fetch; nil if it succeeded
	retryAt  time.Time
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

// currentMetadata returns the provider's metadata. It fetches it when there is none or it is older than metadataTTL.
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

// refresh fetches the metadata. The caller holds lock.
func (p *provider) refresh(ctx context.Context, now time.Time) {
	meta, err := p.fetchMetadata(ctx)
	if err != nil {
		if ctx.Err() == nil { // a caller who gave up says nothing about the provider
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

// fetchMetadata fetches and checks the discovery document. It changes nothing of p.
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

// unreachableFault is the error for a provider that does not answer, or answers nonsense.
func (p *provider) unreachableFault(err error) error {
	return fault.Wrap(truncateError(err), fault.Unavailable, opStart,
		"the identity provider "+p.display()+" cannot be reached",
		"try again in a minute; if it happens again, tell an administrator that "+p.spec.Issuer+
			" does not answer")
}

// misconfiguredFault is the error for a provider that answers, but with which no login is possible before an
// administrator corrects the connector or the provider.
func (p *provider) misconfiguredFault(err error, what string) error {
	return fault.Wrap(truncateError(err), fault.Unavailable, opStart,
		"the identity provider "+p.display()+" cannot be used: "+what,
		"ask an administrator to correct connector "+p.name)
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

// toMetadata checks the document.
func (d discoveryDocument) toMetadata(client *http.Client, now func() time.Time) (*metadata, error) {
	for _, e := range []struct{ name, url string }{
		{"authorization_endpoint", d.AuthURL},
		{"token_endpoint", d.TokenURL},
		{"jwks_uri", d.KeysURL},
	} {
		u, err := url.Parse(e.url)
		if err != nil || u.Host == "" || u.User != nil || len(e.url) > maxURL {
			return nil, fmt.Errorf("its %s %.120q is not a valid address", e.name, e.url)
		}
		if err := checkScheme(u); err != nil {
			return nil, fmt.Errorf("its %s: %w", e.name, err)
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

// commonAlgs are the accepted signature algorithms that the provider offers. A provider that lists none offers
// RS256.
func (d discoveryDocument) commonAlgs() ([]string, error) {
	if len(d.Algs) == 0 {
		return []string{gooidc.RS256}, nil
	}
	var out []string
	for _, a := range acceptedAlgs {
		if slices.Contains(d.Algs, a) {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("it offers none of the signature algorithms %v", acceptedAlgs)
	}
	return out, nil
}

// authStyle is how the client secret is sent to the token endpoint: in the header if the provider allows it.
func (d discoveryDocument) authStyle() oauth2.AuthStyle {
	if len(d.TokenAuth) == 0 || slices.Contains(d.TokenAuth, "client_secret_basic") {
		return oauth2.AuthStyleInHeader
	}
	return oauth2.AuthStyleInParams
}
