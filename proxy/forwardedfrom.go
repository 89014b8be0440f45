package proxy

import (
	"crypto"
	"errors"
	"net/netip"

	"github.com/threshold-access/threshold/internal/authrpc"
)

// signForwardedFrom returns a function that signs the address of a client with the service key of the
// proxy. The auth service verifies it, because it sees only the proxy's address.
func signForwardedFrom(m Member) func(netip.AddrPort, []byte) ([]byte, error) {
	return func(from netip.AddrPort, hello []byte) ([]byte, error) {
		cert, err := m.TLSCertificate()
		if err != nil {
			return nil, err
		}
		key, ok := cert.PrivateKey.(crypto.Signer)
		if !ok {
			return nil, errors.New("the private key of the service certificate cannot sign")
		}
		return authrpc.SignForwardedFrom(key, m.Identity().ID, from, hello)
	}
}
