package identity

import (
	"crypto/x509"
	"time"
)

// Roots are the trust anchors of a server that serves both users and machines. They are kept apart, so that
// the user authority cannot make a machine's certificate, nor the service authority a user's. Each pool holds
// the signing authorities themselves; the cluster root is in neither, so an authority that a rotation removed
// is trusted no more, whatever the root once signed. The zero value trusts nobody.
type Roots struct {
	Users    *x509.CertPool // the user X.509 authorities
	Services *x509.CertPool // the service X.509 authorities
}

// VerifyX509 verifies the chain of a peer that may be a user or a machine, and returns who it is. kinds are
// the kinds that the server accepts. It calls the function VerifyX509 with the pool and the kinds that fit
// the leaf: a leaf that claims to be a user's is verified under Users and accepted only as a user's, any
// other is verified under Services and accepted only as a machine's.
//
// The claim is read before it is verified. That is safe: a false claim selects a pool in which the signer is
// missing, so verification fails.
func (r Roots) VerifyX509(
	chain []*x509.Certificate,
	cluster string,
	use x509.ExtKeyUsage,
	now time.Time,
	kinds ...Kind,
) (Peer, error) {
	pool, isUser := r.Services, claimsUser(chain)
	if isUser {
		pool = r.Users
	}
	var accepted []Kind // the kinds that the authorities in pool may certify
	for _, kind := range kinds {
		if (kind == User) == isUser {
			accepted = append(accepted, kind)
		}
	}
	return VerifyX509(chain, cluster, pool, use, now, accepted...)
}

// claimsUser reports whether the leaf, which is not verified yet, says that it is a user's certificate.
func claimsUser(chain []*x509.Certificate) bool {
	if len(chain) == 0 {
		return false
	}
	for _, e := range chain[0].Extensions {
		if e.Id.Equal(X509Extension) {
			id, err := decodeX509(e.Value)
			return err == nil && id.Kind == User
		}
	}
	return false
}
