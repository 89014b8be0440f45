package identity

import (
	"crypto/x509"
	"time"
)

// Roots holds the two X.509 trees apart, for a server that serves people and machines: the user authority can
// make no machine, and the service authority no user.
type Roots struct {
	Users    *x509.CertPool // the user-x509 roots
	Services *x509.CertPool // the cluster root
}

// VerifyX509 is VerifyX509 under the tree of the kind that the leaf claims; the kinds are those the server
// lets in.
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

// claimsUser reads, unverified, which tree a leaf says it is of. A lie only chooses the tree under which it
// then fails.
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
