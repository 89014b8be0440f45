package proxy

import (
	"crypto"
	"errors"
	"net/netip"

	"github.com/threshold-access/threshold/internal/authrpc"
)

// introduce makes the proxy's word, signed by its service key, from where a client comes that is passed through to auth.
func introduce(m Member) func(netip.AddrPort, []byte) ([]byte, error) {
	return func(from netip.AddrPort, hello []byte) ([]byte, error) {
		cert, err := m.TLSCertificate()
		if err != nil {
			return nil, err
		}
		key, ok := cert.PrivateKey.(crypto.Signer)
		if !ok {
			return nil, errors.New("the service key cannot sign")
		}
		return authrpc.Introduce(key, m.Identity().ID, from, hello)
	}
}
