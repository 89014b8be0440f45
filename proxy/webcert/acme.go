package webcert

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

	"github.com/threshold-access/threshold/internal/backoff"
	"github.com/threshold-access/threshold/internal/fault"
)

// ACME gets certificates from an authority and renews them (RFC 8555). It proves each name by TLS-ALPN-01
// on the public port (RFC 8737).
type ACME struct {
	// Email is the address for messages from the authority. It may be empty.
	Email string
	// Directory is the directory URL of the authority. Empty means Let's Encrypt.
	Directory string
	// CAFile holds the certificates, in PEM form, that the directory's own certificate is verified by.
	// Empty means those of the operating system.
	CAFile string
	// Hosts are the names to get certificates for. There is at least one.
	Hosts []string
}

const (
	// acmeCheckEvery is how often a certificate is checked for renewal. autocert renews it 30 days before
	// it expires.
	acmeCheckEvery = time.Hour
	// acmeRetry is the pause after a failure. autocert repeats the same error for a minute.
	acmeRetry = 65 * time.Second
	// acmeCallTimeout bounds one request to the authority.
	acmeCallTimeout = 30 * time.Second
	// maxRetryAfter is how long the authority may ask to wait between two checks of an order, in seconds.
	maxRetryAfter = 3
)

// acmeManager gets certificates in the background and holds those that the authority has issued. A handshake
// uses what is there, so that no browser waits for the authority.
type acmeManager struct {
	manager *autocert.Manager
	hosts   []string
	service func() (*tls.Certificate, error) // for other names, and until there is a certificate
	log     *slog.Logger

	mu     sync.Mutex                  // guards issued
	issued map[string]*tls.Certificate // by host
}

// newACMEManager returns a manager for the hosts in cfg.ACME. It makes no request; run does. Once ctx has
// ended, no further request is made. The error is a fault of kind Invalid: the CA file cannot be used.
func newACMEManager(ctx context.Context, cfg Config) (*acmeManager, error) {
	roots, err := readRoots(cfg.ACME.CAFile)
	if err != nil {
		return nil, acmeCAFileInvalid.Wrap(err, "webcert.New", fault.Args{"why": err.Error()})
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	transport.DisableKeepAlives = true // a renewal makes a few requests every other month
	return &acmeManager{
		manager: &autocert.Manager{
			Prompt:     autocert.AcceptTOS,
			Cache:      autocert.DirCache(cfg.ACMEDir),
			HostPolicy: autocert.HostWhitelist(cfg.ACME.Hosts...),
			Email:      cfg.ACME.Email,
			Client: &acme.Client{
				DirectoryURL: cfg.ACME.Directory,
				HTTPClient: &http.Client{
					Transport: limitedTransport(ctx, transport),
					Timeout:   acmeCallTimeout,
				},
			},
		},
		hosts:   cfg.ACME.Hosts,
		service: cfg.Service,
		log:     cfg.Log,
		issued:  map[string]*tls.Certificate{},
	}, nil
}

// readRoots reads the authorities' certificates in a file. Without a file it returns a nil pool, which means
// those of the operating system.
func readRoots(file string) (*x509.CertPool, error) {
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

// run gets and renews the certificates, each host's in a goroutine, until ctx ends. It returns nil.
func (m *acmeManager) run(ctx context.Context) error {
	var renewing sync.WaitGroup
	for _, h := range m.hosts {
		renewing.Go(func() { m.renew(ctx, h) })
	}
	renewing.Wait()
	return nil
}

// renew gets the certificate of one host and checks every acmeCheckEvery whether it is due for renewal, until
// ctx ends. After a failure it logs what to check, and tries again after acmeRetry.
func (m *acmeManager) renew(ctx context.Context, host string) {
	// The cipher suite tells autocert that the client knows ECDSA: the certificate is for a P-256 key.
	hello := &tls.ClientHelloInfo{
		ServerName:   host,
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	}
	for {
		pause := acmeCheckEvery
		cert, err := m.manager.GetCertificate(hello)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			pause = acmeRetry
			m.log.Warn("no web certificate from the ACME authority",
				"host", host, "err", err, "retry_in", pause,
				"remedy", "check that "+host+" leads to this proxy on port 443 from the Internet,"+
					" and that this proxy can reach the authority")
		default:
			m.store(host, cert)
		}
		if !backoff.Sleep(ctx, pause) {
			return
		}
	}
}

// store makes cert the certificate of host. It logs a certificate that is new.
func (m *acmeManager) store(host string, cert *tls.Certificate) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.issued[host]; old == nil || !old.Leaf.Equal(cert.Leaf) {
		m.log.Info("web certificate from the ACME authority",
			"host", host, "until", cert.Leaf.NotAfter, "issuer", cert.Leaf.Issuer.String())
	}
	m.issued[host] = cert
}

// get returns the certificate for the host that a browser asks for. Without one it returns the proxy's
// service certificate.
func (m *acmeManager) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	m.mu.Lock()
	cert := m.issued[strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))]
	m.mu.Unlock()
	if cert != nil {
		return cert, nil
	}
	return m.service()
}

// challenge answers the authority, which offers the ALPN name acme-tls/1. It only answers for an order in
// progress, and starts none.
func (m *acmeManager) challenge(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return m.manager.GetCertificate(hello)
}

// roundTripFunc is an http.RoundTripper that is one function.
type roundTripFunc func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// limitedTransport returns a transport that makes its requests by next. When ctx ends it cancels the requests
// in progress and refuses new ones: autocert takes no context, and the stop of the proxy waits for autocert.
// It also limits the pauses that the authority asks for.
func limitedTransport(ctx context.Context, next http.RoundTripper) http.RoundTripper {
	return roundTripFunc(func(r *http.Request) (*http.Response, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		reqCtx, cancel := context.WithCancel(r.Context())
		stop := context.AfterFunc(ctx, cancel)
		resp, err := next.RoundTrip(r.WithContext(reqCtx))
		if err != nil {
			stop()
			cancel()
			return nil, err
		}
		// The body is read under the same context, so the context is released when the body is closed.
		resp.Body = &releasingBody{ReadCloser: resp.Body, release: func() { stop(); cancel() }}
		limitRetryAfter(resp)
		return resp, nil
	})
}

// limitRetryAfter bounds the pause that a response asks for. A response with an error may ask for more,
// because it is not about an order in progress.
func limitRetryAfter(resp *http.Response) {
	pause := resp.Header.Get("Retry-After")
	if pause == "" || resp.StatusCode >= http.StatusBadRequest {
		return
	}
	if n, err := strconv.Atoi(pause); err != nil || n > maxRetryAfter { // it may be a date
		resp.Header.Set("Retry-After", strconv.Itoa(maxRetryAfter))
	}
}

// releasingBody calls release when it is closed.
type releasingBody struct {
	io.ReadCloser
	release func()
}

// Close implements io.Closer.
func (b *releasingBody) Close() error {
	defer b.release()
	return b.ReadCloser.Close()
}
