package proxy

import (
	"crypto"
	"errors"
	"net/netip"

	"github.com/threshold-access/threshold/internal/authrpc"
)

// signForwardedFrom returns a function for mux.Config.SignForwardedFrom. The function signs the client's
// address and the first bytes of the client's connection with the service key of this proxy, and returns what
// to send in front of them. The auth service believes the address only with a valid signature, and only for a
// connection that begins with these bytes.
func signForwardedFrom(membership Member) func(from netip.AddrPort, hello []byte) ([]byte, error) {
	return func(from netip.AddrPort, hello []byte) ([]byte, error) {
		key, err := serviceKey(membership)
		if err != nil {
			return nil, err
		}
		return authrpc.SignForwardedFrom(key, membership.Identity().ID, from, hello)
	}
}

// serviceKey returns the key of this proxy's service certificate.
func serviceKey(membership Member) (crypto.Signer, error) {
	cert, err := membership.TLSCertificate()
	if err != nil {
		return nil, err
	}
	key, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("the private key of the service certificate cannot sign")
	}
	return key, nil
}
