package oidctest

import "net/url"

// Signature is how an ID token is signed.
type Signature int

// Ways to sign; the zero value is the right one.
const (
	Signed            Signature = iota
	Unsigned                    // alg none
	PublicKeyAsSecret           // HS256, keyed with the public key that everybody knows
	ForeignKey                  // somebody else's key under the key id of the right one
	UnknownKey                  // somebody else's key under an id of its own
)

// Faults is how a provider misbehaves. The zero value behaves.
type Faults struct {
	Claims      func(map[string]any) // alters the claims of an ID token before it is signed
	Return      func(url.Values)     // alters what the browser is sent back with
	Discovery   func(map[string]any) // alters the discovery document
	Signature   Signature
	Refuse      string // the error code of an answer in place of the login page
	Description string // goes with Refuse
	Down        bool   // answers everything with 503
	NoKeys      bool   // the key set cannot be fetched
}

// RequestCounts counts what a provider was asked.
type RequestCounts struct{ Discoveries, KeyFetches, Exchanges int }

// SetFaults makes the provider act as f says from now on.
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

func (p *Provider) currentFaults() Faults {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults
}

func (p *Provider) countRequest(count func(*RequestCounts)) Faults {
	p.mu.Lock()
	defer p.mu.Unlock()
	count(&p.counts)
	return p.faults
}
