// Package webcert answers: which certificate do browsers see?
//
// It is the one in a pair of files, one from an ACME authority, or the service certificate of the proxy, in
// this order.
package webcert

import (
	"context"
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
)

// Config says where the certificate comes from. At most one of CertFile and ACME is set.
type Config struct {
	// CertFile and KeyFile hold a certificate with its chain, and its private key, in PEM form. They are
	// read again when CertFile changes. Both or neither are set.
	CertFile, KeyFile string
	// ACME gets certificates from an authority. Nil means that it is not used.
	ACME *ACME
	// ACMEDir is the directory for the account key and the certificates of ACME. Required with ACME.
	ACMEDir string
	// Service returns the service certificate of the proxy. Browsers see it when there are neither files
	// nor ACME, and while ACME has no certificate for the name yet. Required.
	Service func() (*tls.Certificate, error)
	Now     func() time.Time // the clock; required
	Log     *slog.Logger     // required
}

// Certificate is the certificate for browsers. The functions may be called by several goroutines at once.
type Certificate struct {
	// Get returns the certificate for a handshake. It never waits for the network.
	Get func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Challenge answers an ACME authority that verifies a name (RFC 8737). Nil without ACME.
	Challenge func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	run func(context.Context) error // nil when nothing runs in the background
}

// New returns the certificate that cfg names: it reads the files, or prepares ACME, or takes the service
// certificate. It starts nothing; Run does. Once ctx has ended, ACME makes no more requests. The error is a
// fault of kind Invalid: a file cannot be used.
func New(ctx context.Context, cfg Config) (*Certificate, error) {
	switch {
	case cfg.ACME != nil:
		manager, err := newACMEManager(ctx, cfg)
		if err != nil {
			return nil, err
		}
		return &Certificate{Get: manager.get, Challenge: manager.challenge, run: manager.run}, nil
	case cfg.CertFile != "":
		files := &certFiles{cert: cfg.CertFile, key: cfg.KeyFile, now: cfg.Now, log: cfg.Log}
		if err := files.load(); err != nil {
			return nil, webCertificateUnusable.Wrap(err, "webcert.New", fault.Args{
				"cert_file": cfg.CertFile,
				"key_file":  cfg.KeyFile,
			})
		}
		return &Certificate{Get: files.get}, nil
	}
	return &Certificate{
		Get: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cfg.Service() },
	}, nil
}

// Run keeps the certificate valid until ctx ends. It is called once.
func (c *Certificate) Run(ctx context.Context) error {
	if c.run != nil {
		return c.run(ctx)
	}
	<-ctx.Done()
	return nil
}
