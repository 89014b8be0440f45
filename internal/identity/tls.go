package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"time"
)

// PinnedTLS is a TLS client configuration that trusts nothing but the service authority under the pinned
// cluster root, and only a server of one of the kinds. The server presents its chain with the root at the
// end, so the pin alone is enough to check it. cert may be nil: then the client shows no certificate. now is
// the clock.
func PinnedTLS(
	pin Pin,
	cluster, alpn string,
	cert func() (*tls.Certificate, error),
	now func() time.Time,
	kinds ...Kind,
) *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{alpn},
		Time:       now,
		// The chain is verified below, under the pin in place of the system's roots and by identity in place
		// of the host name.
		InsecureSkipVerify: true,
		VerifyConnection: func(st tls.ConnectionState) error {
			if st.NegotiatedProtocol != alpn {
				return errors.New("the server does not speak " + alpn)
			}
			_, err := VerifyPinned(st.PeerCertificates, pin, cluster, now(), kinds...)
			return err
		},
	}
	if cert != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return clientChain(cert, alpn) }
	}
	return cfg
}

// clientChain is what a server needs of a certificate and its chain. Proxies trust the authorities that sign
// certificates themselves, so the leaf alone is enough; a proxy keeps what it was shown for as long as a
// tunnel stands. Auth trusts the root above them.
func clientChain(cert func() (*tls.Certificate, error), alpn string) (*tls.Certificate, error) {
	c, err := cert()
	if err != nil || len(c.Certificate) <= 1 || alpn != ALPNTunnel && alpn != ALPNDial {
		return c, err
	}
	leaf := *c
	leaf.Certificate = c.Certificate[:1]
	return &leaf, nil
}

// VerifyPinned verifies a server's chain under the cluster root that the pin names.
func VerifyPinned(
	chain []*x509.Certificate,
	pin Pin,
	cluster string,
	now time.Time,
	kinds ...Kind,
) (Peer, error) {
	root, err := RootByPin(chain, pin)
	if err != nil {
		return Peer{}, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	return VerifyX509(chain, cluster, roots, x509.ExtKeyUsageServerAuth, now, kinds...)
}
