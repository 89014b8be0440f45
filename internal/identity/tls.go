package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"time"
)

// PinnedTLS returns the TLS configuration of a client that connects to servers of the cluster (AnyCluster at
// a first contact) with the ALPN name alpn. It accepts only a server whose certificate is under the cluster
// root with the pin and for one of kinds. Servers send their chain with the root at the end, so the pin is
// all that the client needs to know.
//
// cert returns the client's certificate and is called for each handshake; if cert is nil the client sends
// none. now is the clock.
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
		// This switches off the usual verification, by the system's roots and the host name. VerifyConnection
		// takes its place: it verifies by pin and identity.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if state.NegotiatedProtocol != alpn {
				return errors.New("the server does not speak " + alpn)
			}
			_, err := VerifyPinned(state.PeerCertificates, pin, cluster, now(), kinds...)
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

// clientChain returns the client's certificate as the client sends it to a server of the protocol alpn: for
// tunnels and dial requests the leaf alone, and otherwise the whole chain.
//
// The leaf is enough for every server, because each knows the authorities that sign client certificates (see
// Roots). A proxy keeps what the client sent in memory for as long as the tunnel or session lasts, so the
// rest of the chain would be wasted there.
func clientChain(cert func() (*tls.Certificate, error), alpn string) (*tls.Certificate, error) {
	chain, err := cert()
	isLongLived := alpn == ALPNTunnel || alpn == ALPNDial
	if err != nil || len(chain.Certificate) <= 1 || !isLongLived {
		return chain, err
	}
	leafOnly := *chain
	leafOnly.Certificate = chain.Certificate[:1]
	return &leafOnly, nil
}

// VerifyPinned verifies the chain that a server sent, and returns which server it is. The chain must lead to
// the cluster root with the pin and contain that root. cluster and kinds are as for VerifyX509.
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
