package ca

import (
	"fmt"

	"github.com/smallstep/certificates/policy"
)

// namePolicy is smallstep's name policy as a second opinion on what a user's certificates name: an SSH
// certificate plain accounts, an X.509 certificate one URI of this cluster, and neither a host name, an
// address or a mailbox. Hosts and services name what an operator chose, for which such a policy has no words.
type namePolicy struct{ engine *policy.NamePolicyEngine }

func newNamePolicy(cluster string) (namePolicy, error) {
	names, err := policy.New(policy.WithPermittedURIDomains(cluster), policy.WithPermittedPrincipals("*"))
	if err != nil {
		return namePolicy{}, fmt.Errorf("make the name policy: %w", err)
	}
	return namePolicy{engine: names}, nil
}

func (g namePolicy) check(d *draft) error {
	if d.profile != User {
		return nil
	}
	if d.ssh != nil {
		if err := g.engine.IsSSHCertificateAllowed(d.ssh); err != nil {
			return fmt.Errorf("name policy: %w", err)
		}
	}
	if d.x509 != nil {
		if err := g.engine.IsX509CertificateAllowed(d.x509); err != nil {
			return fmt.Errorf("name policy: %w", err)
		}
	}
	return nil
}
