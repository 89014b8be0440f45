package oidctest

import "net/url"

// Signature is how an ID token is signed.
type Signature int

// How ID tokens are signed; the zero value is correct.
const (
	Signed            Signature = iota
	Unsigned                    // alg none
	PublicKeyAsSecret           // HS256 with the public key as secret
	ForeignKey                  // another key under the key id of the right one
	UnknownKey                  // another key under an unknown key id
)

// Faults says how a provider misbehaves. With the zero value it behaves correctly.
type Faults struct {
	Claims      func(map[string]any) // alters the claims of an ID token before it is signed
	Return      func(url.Values)     // alters the callback parameters
	Discovery   func(map[string]any) // alters the discovery document
	Signature   Signature
	Refuse      string // an error code: authorize redirects with it instead of showing the login page
	Description string // goes with Refuse
	Down        bool   // answers everything with 503
	NoKeys      bool   // the key set cannot be fetched
}

// RequestCounts counts the requests to a provider.
type RequestCounts struct{ Discoveries, KeyFetches, Exchanges int }

// SetFaults replaces the faults of the provider.
func (p *Provider) SetFaults(f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = f
}

// RequestCounts returns the counts so far.
func (p *Provider) RequestCounts() RequestCounts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

// currentFaults returns the faults that were set last.
func (p *Provider) currentFaults() Faults {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults
}

// countRequest counts a request by calling count, and returns the current faults.
func (p *Provider) countRequest(count func(*RequestCounts)) Faults {
	p.mu.Lock()
	defer p.mu.Unlock()
	count(&p.counts)
	return p.faults
}
