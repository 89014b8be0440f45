// Package owncert answers: which certificate does this auth replica show at its port?
//
// A replica issues its own service certificate, for a key that is kept in memory only, and renews it after
// two thirds of its lifetime. The root of auth starts it.
package owncert

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/threshold-access/threshold/internal/backoff"
	"github.com/threshold-access/threshold/internal/identity"
)

// retryInterval is the pause after a renewal that failed, and the least time between two renewals.
const retryInterval = time.Minute

// Issuer issues the service certificate of an auth replica. issue.Issuer is one.
type Issuer interface {
	// ForAuth returns the certificate first and the cluster root last.
	ForAuth(ctx context.Context, id identity.Identity, key crypto.PublicKey) ([]*x509.Certificate, error)
}

// Config says what a keeper needs; all of it is required.
type Config struct {
	Issuer   Issuer
	Identity identity.Identity // of this replica
	Now      func() time.Time
	Log      *slog.Logger
}

// Keeper holds the current certificate. It is safe for concurrent use.
type Keeper struct {
	cfg     Config
	current atomic.Pointer[tls.Certificate] // nil before the first Renew
}

// New makes a keeper without a certificate: Renew gets the first.
func New(cfg Config) *Keeper { return &Keeper{cfg: cfg} }

// Certificate is the current certificate with its chain and the cluster root; nil before the first Renew.
func (k *Keeper) Certificate() *tls.Certificate { return k.current.Load() }

// Renew makes a new key, has a certificate issued for it, and makes that the current one. On an error the
// current certificate stays.
func (k *Keeper) Renew(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("generate a service key: %w", err)
	}
	chain, err := k.cfg.Issuer.ForAuth(ctx, k.cfg.Identity, key.Public())
	if err != nil {
		return err
	}
	cert := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	k.current.Store(cert)
	return nil
}

// Run renews the certificate whenever two thirds of its lifetime are over, until ctx ends; it then returns
// nil. The caller must have called Renew with success before. A renewal that fails is logged and tried again
// after retryInterval.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		leaf := k.current.Load().Leaf
		left := leaf.NotAfter.Sub(k.cfg.Now())
		lifetime := leaf.NotAfter.Sub(leaf.NotBefore)
		if !backoff.Sleep(ctx, max(left-lifetime/3, retryInterval)) { // negative or short after a failure
			return nil
		}
		if err := k.Renew(ctx); err != nil && ctx.Err() == nil {
			k.cfg.Log.Error("auth's own certificate could not be renewed", "until", leaf.NotAfter, "err", err)
		}
	}
}
