package ca

import (
	"fmt"

	"github.com/smallstep/certificates/policy"
)

// guard is smallstep's name policy as a second opinion on what a user's certificates name: an SSH certificate plain accounts, an X.509
// certificate one URI of this cluster, and neither a host name, an address or a mailbox. Hosts and services name what an operator
// chose, for which such a policy has no words.
type guard struct{ names *policy.NamePolicyEngine }

func newGuard(cluster string) (guard, error) {
	names, err := policy.New(policy.WithPermittedURIDomains(cluster), policy.WithPermittedPrincipals("*"))
	if err != nil {
		return guard{}, fmt.Errorf("make the name policy: %w", err)
	}
	return guard{names: names}, nil
}

func (g guard) check(d *draft) error {
	if d.profile != User {
		return nil
	}
	if d.ssh != nil {
		if err := g.names.IsSSHCertificateAllowed(d.ssh); err != nil {
			return fmt.Errorf("name policy: %w", err)
		}
	}
	if d.x509 != nil {
		if err := g.names.IsX509CertificateAllowed(d.x509); err != nil {
			return fmt.Errorf("name policy: %w", err)
		}
	}
	return nil
}
