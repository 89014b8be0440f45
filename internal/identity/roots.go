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

// VerifyX509 is the function VerifyX509 under the pool for the kind that the leaf claims to be. kinds are
// those that the server accepts.
func (t Roots) VerifyX509(
	chain []*x509.Certificate,
	cluster string,
	use x509.ExtKeyUsage,
	now time.Time,
	kinds ...Kind,
) (Peer, error) {
	roots, users := t.Services, claimsUser(chain)
	if users {
		roots = t.Users
	}
	var of []Kind
	for _, k := range kinds {
		if (k == User) == users {
			of = append(of, k)
		}
	}
	return VerifyX509(chain, cluster, roots, use, now, of...)
}

// claimsUser reads from the unverified leaf whether it claims to be a user's. A false claim only selects the
// pool under which verification then fails.
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
