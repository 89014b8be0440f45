// Package oidc answers: which user has the identity provider verified?
//
// It is the relying party of OpenID Connect Core 1.0: authorization code flow with PKCE (RFC 7636, S256),
// state and nonce, and for providers that send it the issuer beside the code (RFC 9207). A cluster may have
// several connectors; each names a provider and maps its claims to roles and traits. VerifiedUser is the
// evidence of a finished flow: only Finish makes one.
//
// The package stores nothing about a flow. What must be remembered between Start and Finish is a Flow, which
// auth/login seals into the browser's cookie. Everything in the callback, including the state, is checked
// here.
package oidc

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/fault"
)

// Source reads the connectors that are configured now. state.ConnectorReader implements it.
type Source interface {
	Connector(ctx context.Context, name string) (state.StoredConnector, error)
	ListConnectors(ctx context.Context) ([]state.StoredConnector, error)
}

// Config is what Providers needs.
type Config struct {
	// Source reads the connectors. Required.
	Source Source
	// Transport sends requests to providers. Nil means one that uses the system's root certificates and the
	// proxy in HTTPS_PROXY.
	Transport http.RoundTripper
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// Providers runs the flows of all connectors. It is safe for concurrent use.
type Providers struct {
	source    Source
	client    *http.Client
	now       func() time.Time
	exchanges chan struct{} // a semaphore: one token for each code exchange in progress

	mu    sync.Mutex           // guards cache; it is not held during requests to providers
	cache map[string]*provider // by the name of the connector
}

// maxExchanges bounds the code exchanges in progress. Anyone can cause one, with a code that the provider
// will refuse.
const maxExchanges = 64

// New makes Providers. It contacts no provider.
func New(cfg Config) (*Providers, error) {
	if cfg.Source == nil {
		return nil, oidcConfigIncomplete.New("oidc.New")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Providers{
		source:    cfg.Source,
		client:    newClient(cfg.Transport),
		now:       cfg.Now,
		exchanges: make(chan struct{}, maxExchanges),
		cache:     map[string]*provider{},
	}, nil
}

// Choice is a connector as the login page offers it.
type Choice struct{ Name, Display string }

// List returns the connectors, sorted by name. One that this release cannot decode is listed under its name.
func (p *Providers) List(ctx context.Context) ([]Choice, error) {
	all, err := p.source.ListConnectors(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Choice, 0, len(all))
	for _, c := range all {
		choice := Choice{Name: c.Name, Display: c.Name}
		if spec, err := ReadRecord(c.Connector); err == nil && spec.Display != "" {
			choice.Display = spec.Display
		}
		out = append(out, choice)
	}
	return out, nil
}

// currentProvider returns a provider made from the newest stored version of the connector. Providers are
// cached by the connector's name until its revision changes, because a provider holds fetched metadata and
// keys. An unknown connector gets fault NotFound.
func (p *Providers) currentProvider(ctx context.Context, name string) (*provider, error) {
	rec, err := p.source.Connector(ctx, name)
	if fault.Is(err, fault.NotFound) {
		p.forget(name)
		return nil, p.unknownConnectorFault(ctx, err, name)
	}
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if cached := p.cache[name]; cached != nil && cached.revision == rec.Revision {
		return cached, nil
	}
	spec, err := ReadRecord(rec.Connector)
	if err != nil {
		return nil, connectorUnreadable.Wrap(err, opStart, fault.Args{"connector": name})
	}
	made := newProvider(name, spec, rec.Revision, p.client, p.now)
	p.cache[name] = made
	return made, nil
}

// forget drops the cached provider of a connector that was removed.
func (p *Providers) forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.cache, name)
}

// unknownConnectorFault is the error for a connector that does not exist, or no longer. Its remedy names
// those that do.
func (p *Providers) unknownConnectorFault(ctx context.Context, cause error, name string) error {
	shown := printable(name)
	if all, err := p.List(ctx); err == nil && len(all) > 0 {
		names := make([]string, len(all))
		for i, c := range all {
			names[i] = c.Name
		}
		return connectorUnknownAmong.New(opStart, fault.Args{
			"connector":  shown,
			"connectors": strings.Join(names, ", "),
		}).Because(cause)
	}
	return connectorUnknown.New(opStart, fault.Args{"connector": shown}).Because(cause)
}
