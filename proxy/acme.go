package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"github.com/threshold-access/threshold/internal/fault"
)

// ACME gets the web certificate from an authority and renews it (RFC 8555), proving each name by TLS-ALPN-01
// on the public port (RFC 8737).
type ACME struct {
	// Email is whom the authority tells of trouble. It may be empty.
	Email string
	// Directory is the authority's directory URL. Empty means Let's Encrypt.
	Directory string
	// CAFile has the certificates (PEM) that the directory itself is trusted by. Empty means the system's.
	CAFile string
	// Hosts are the names to get certificates for, at least one.
	Hosts []string
}

const (
	acmeLookEvery = time.Hour        // at a certificate that is held: autocert renews it 30 days before its end
	acmeRetry     = 65 * time.Second // autocert gives the same answer for a minute
	acmeCall      = 30 * time.Second // for one request to the authority
	acmeLongest   = 3                // seconds that the authority may ask to wait between two looks at an order
)

// automatic holds what the authority has issued, so that no handshake ever waits for it.
type automatic struct {
	manager *autocert.Manager
	hosts   []string
	own     func() (*tls.Certificate, error) // for other names, and until the authority has issued
	log     *slog.Logger

	mu   sync.Mutex // guards held
	held map[string]*tls.Certificate
}

// newAutomatic makes ready; Run goes to the authority. Once ctx has ended no request is made.
func newAutomatic(
	ctx context.Context,
	cfg ACME,
	dir string,
	own func() (*tls.Certificate, error),
	log *slog.Logger,
) (*automatic, error) {
	roots, err := rootsOf(cfg.CAFile)
	if err != nil {
		return nil, fault.Wrap(
			err,
			fault.Invalid,
			"proxy.Run",
			"the ACME directory's authority cannot be used: "+err.Error(),
			"check spec.proxy.acme.ca_file",
		)
	}
	plain := http.DefaultTransport.(*http.Transport).Clone()
	plain.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	plain.DisableKeepAlives = true // a renewal is a few requests every other month
	m := &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(dir),
		HostPolicy: autocert.HostWhitelist(cfg.Hosts...),
		Email:      cfg.Email,
		Client: &acme.Client{
			DirectoryURL: cfg.Directory,
			HTTPClient:   &http.Client{Transport: until(ctx, plain), Timeout: acmeCall},
		},
	}
	return &automatic{
		manager: m,
		hosts:   cfg.Hosts,
		own:     own,
		log:     log,
		held:    map[string]*tls.Certificate{},
	}, nil
}

func rootsOf(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", file)
	}
	return roots, nil
}

// Run gets and renews the certificates until ctx ends.
func (a *automatic) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, h := range a.hosts {
		all.Go(func() { a.keep(ctx, h) })
	}
	all.Wait()
	return nil
}

func (a *automatic) keep(ctx context.Context, host string) {
	for {
		wait := acmeLookEvery
		// As a client that knows ECDSA: the certificate is for a P-256 key.
		cert, err := a.manager.GetCertificate(&tls.ClientHelloInfo{
			ServerName:   host,
			CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		})
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = acmeRetry
			a.log.Warn(
				"no web certificate from the ACME authority",
				"host",
				host,
				"err",
				err,
				"again",
				wait,
				"remedy",
				"check that "+host+" leads to this proxy on port 443 from the Internet, and that the authority can be reached",
			)
		default:
			a.hold(host, cert)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

func (a *automatic) hold(host string, cert *tls.Certificate) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.held[host]; old == nil || !old.Leaf.Equal(cert.Leaf) {
		a.log.Info(
			"web certificate from the ACME authority",
			"host",
			host,
			"until",
			cert.Leaf.NotAfter,
			"issuer",
			cert.Leaf.Issuer.String(),
		)
	}
	a.held[host] = cert
}

// get is what browsers are shown.
func (a *automatic) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	a.mu.Lock()
	cert := a.held[strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))]
	a.mu.Unlock()
	if cert != nil {
		return cert, nil
	}
	return a.own()
}

// challenge answers the authority, which comes with the one ALPN name acme-tls/1, from what is under way; it
// starts nothing.
func (a *automatic) challenge(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return a.manager.GetCertificate(hello)
}

// roundTrip is a transport that is one function.
type roundTrip func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// until makes no request once ctx has ended, and lets no authority put an order off for long: who stops waits
// for it.
func until(ctx context.Context, next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		own, cancel := context.WithCancel(r.Context())
		stop := context.AfterFunc(ctx, cancel)
		resp, err := next.RoundTrip(r.WithContext(own))
		if err != nil {
			stop()
			cancel()
			return nil, err
		}
		resp.Body = &released{resp.Body, func() { stop(); cancel() }}
		hurry(resp)
		return resp, nil
	})
}

// hurry bounds the pause that an answer asks for. Those that refuse for now may ask for more: they are not
// about an order under way.
func hurry(resp *http.Response) {
	pause := resp.Header.Get("Retry-After")
	if n, err := strconv.Atoi(pause); pause != "" && resp.StatusCode < http.StatusBadRequest &&
		(err != nil || n > acmeLongest) {
		resp.Header.Set("Retry-After", strconv.Itoa(acmeLongest))
	}
}

// released is a body whose request ends when it is closed.
type released struct {
	io.ReadCloser
	release func()
}

// Close implements io.Closer.
func (b *released) Close() error {
	defer b.release()
	return b.ReadCloser.Close()
}
