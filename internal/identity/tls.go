package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"time"
)

// PinnedTLS is a TLS client configuration that trusts only certificates under the cluster root with the pin,
// and only servers of one of the kinds. A server sends its chain with the root at the end, so the pin is
// enough to verify it. cert returns the client's certificate; a nil cert sends none. now is the clock.
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
		// VerifyConnection verifies the chain: under the pin in place of the system's roots, and by identity
		// in place of the host name.
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
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return clientChain(cert, alpn)
		}
	}
	return cfg
}

// clientChain returns what the client sends of its certificate and chain. Servers trust the authorities that
// sign client certificates themselves (see Roots), so the leaf is enough. It is sent alone where a proxy
// keeps what it received in memory for as long as a tunnel or a session lasts; auth gets the chain as it is.
func clientChain(cert func() (*tls.Certificate, error), alpn string) (*tls.Certificate, error) {
	c, err := cert()
	if err != nil || len(c.Certificate) <= 1 || alpn != ALPNTunnel && alpn != ALPNDial {
		return c, err
	}
	leaf := *c
	leaf.Certificate = c.Certificate[:1]
	return &leaf, nil
}

// VerifyPinned verifies a server's chain under the cluster root that the pin names. The root must be in the
// chain.
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
