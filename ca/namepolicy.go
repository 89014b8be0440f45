package ca

import (
	"fmt"

	"github.com/smallstep/certificates/policy"
)

// namePolicy is smallstep's name policy as a second check of the names in user certificates. An SSH
// certificate may name plain accounts, an X.509 certificate URIs of this cluster. Neither may name a host,
// an address or a mailbox. The names of hosts and services are not checked here: operators choose them, and
// such a policy cannot describe them.
type namePolicy struct{ engine *policy.NamePolicyEngine }

func newNamePolicy(cluster string) (namePolicy, error) {
	engine, err := policy.New(policy.WithPermittedURIDomains(cluster), policy.WithPermittedPrincipals("*"))
	if err != nil {
		return namePolicy{}, fmt.Errorf("make the name policy: %w", err)
	}
	return namePolicy{engine: engine}, nil
}

// check returns an error when a user certificate has a name that the policy does not permit. Certificates of
// hosts and services pass.
func (p namePolicy) check(d *draft) error {
	if d.profile != User {
		return nil
	}
	if d.ssh != nil {
		if err := p.engine.IsSSHCertificateAllowed(d.ssh); err != nil {
			return fmt.Errorf("name policy: %w", err)
		}
	}
	if d.x509 != nil {
		if err := p.engine.IsX509CertificateAllowed(d.x509); err != nil {
			return fmt.Errorf("name policy: %w", err)
		}
	}
	return nil
}
