package proxy

import (
	"crypto"
	"errors"
	"net/netip"

	"github.com/threshold-access/threshold/internal/authrpc"
)

// signForwardedFrom makes the proxy's word, signed by its service key, from where a client comes that is
// passed through to auth.
func signForwardedFrom(m Member) func(netip.AddrPort, []byte) ([]byte, error) {
	return func(from netip.AddrPort, hello []byte) ([]byte, error) {
		cert, err := m.TLSCertificate()
		if err != nil {
			return nil, err
		}
		key, ok := cert.PrivateKey.(crypto.Signer)
		if !ok {
			return nil, errors.New("the service key cannot sign")
		}
		return authrpc.SignForwardedFrom(key, m.Identity().ID, from, hello)
	}
}
