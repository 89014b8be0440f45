package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// refusedFault is the fault of a request that must not be signed: Invalid, with the text of err.
func refusedFault(err error, remedy string) error {
	return certificateRefused.Wrap(err, opPrepare, fault.Args{"why": err.Error(), "hint": remedy})
}

// askAdmin is the remedy for what the user or the machine cannot correct.
const askAdmin = "ask an administrator to correct the user's roles or the machine's registration"

// check returns fault Invalid when no certificate may be issued for r: the profile, the subject, its keys,
// its names and its options must fit together. It looks at the request only; lint looks at the certificates.
func (c *CA) check(r Request) error {
	limits, ok := profiles[r.Profile]
	if !ok {
		const remedy = "use the profile user, host or service"
		return refusedFault(fmt.Errorf("there is no profile %q", r.Profile), remedy)
	}
	if !slices.Contains(limits.kinds, r.Identity.Kind) {
		err := fmt.Errorf("a %s cannot have a %s certificate", r.Identity.Kind, r.Profile)
		return refusedFault(err, askAdmin)
	}
	if r.Identity.Cluster != c.cluster {
		return refusedFault(
			fmt.Errorf("the identity is of cluster %q, not %q", r.Identity.Cluster, c.cluster),
			"ask the cluster that the identity belongs to",
		)
	}
	if err := c.checkKeys(r, limits); err != nil {
		return refusedFault(err, "make a new key: ssh-keygen -t ed25519, or log in again with tsh login")
	}
	if err := r.checkNames(); err != nil {
		return refusedFault(err, askAdmin)
	}
	if err := r.checkUserOptions(); err != nil {
		return refusedFault(err, askAdmin)
	}
	return nil
}

// checkKeys returns an error unless there is at least one key, the profile has a certificate for each given
// key, and each key is of a type and size that the cluster accepts and is not the key of an authority.
func (c *CA) checkKeys(r Request, limits profileLimits) error {
	switch {
	case r.SSHKey == nil && r.X509Key == nil:
		return errors.New("no key was given")
	case r.SSHKey != nil && !limits.ssh:
		return fmt.Errorf("the %s profile has no SSH certificate", r.Profile)
	case r.X509Key != nil && !limits.x509:
		return fmt.Errorf("the %s profile has no X.509 certificate", r.Profile)
	}
	if r.SSHKey != nil {
		if err := identity.CheckSSHKey(r.SSHKey); err != nil {
			return err
		}
		if err := c.checkNotAuthority(r.SSHKey.(ssh.CryptoPublicKey).CryptoPublicKey()); err != nil {
			return err
		}
	}
	if r.X509Key != nil {
		if err := identity.CheckKey(r.X509Key); err != nil {
			return err
		}
		return c.checkNotAuthority(r.X509Key)
	}
	return nil
}

// checkNotAuthority returns an error when the key of a subject is the key of an authority. Such a certificate
// could pass for the authority's own.
func (c *CA) checkNotAuthority(key crypto.PublicKey) error {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return fmt.Errorf("the key cannot be encoded: %w", err)
	}
	if slices.ContainsFunc(c.authorityKeys, func(own []byte) bool { return bytes.Equal(own, der) }) {
		return errors.New("the key is one of the cluster's own authorities")
	}
	return nil
}

// checkNames returns an error unless the logins of a user, or the names of a host or service, are allowed:
// their number, their syntax, and that the names belong to the identity. Logins are for users only, names for
// the others.
func (r Request) checkNames() error {
	if r.Profile == User {
		return r.checkLogins()
	}
	switch {
	case len(r.Logins) != 0:
		return fmt.Errorf("a %s certificate has no logins", r.Profile)
	case r.Profile == Host && len(r.Names) == 0:
		return errors.New("a host certificate needs a name: without one it is valid for every host")
	case len(r.Names) > maxNames:
		return fmt.Errorf("%d names, more than %d", len(r.Names), maxNames)
	}
	for _, n := range r.Names {
		if err := checkName(r.Identity, n); err != nil {
			return err
		}
	}
	return nil
}

// checkLogins returns an error unless the SSH principals of a user are allowed. Without logins a user gets an
// X.509 certificate only: OpenSSH would take an SSH certificate without principals as valid for every
// account.
func (r Request) checkLogins() error {
	switch {
	case len(r.Names) != 0:
		return errors.New("a user certificate has no host names")
	case len(r.Logins) > maxPrincipals:
		return fmt.Errorf("%d logins, more than %d", len(r.Logins), maxPrincipals)
	case len(r.Logins) == 0 && r.X509Key == nil:
		return errors.New("the user has no login, so there is no SSH certificate")
	}
	for _, l := range r.Logins {
		if err := identity.CheckLogin(l); err != nil {
			return err
		}
	}
	return nil
}

// checkName returns an error unless the machine may have the name in its certificate. A node may have its own
// name and id, alone or with the cluster's name behind it. A proxy or auth replica may have any plain host
// name or IP address, because an operator chooses their public addresses.
func checkName(id identity.Identity, name string) error {
	if id.Kind == identity.Node {
		own := []string{id.Name, string(id.ID), id.Name + "." + id.Cluster, string(id.ID) + "." + id.Cluster}
		if !slices.Contains(own, name) {
			return fmt.Errorf("%q is not a name of node %s", name, id.Name)
		}
		return identity.CheckMachineName(name)
	}
	return identity.CheckHost(name)
}

// checkUserOptions returns an error unless the source addresses are networks, the extensions are known, and
// both are there for users only.
func (r Request) checkUserOptions() error {
	if r.Profile != User && len(r.SourceAddress)+len(r.Extensions) != 0 {
		return fmt.Errorf("a %s certificate has neither source addresses nor extensions", r.Profile)
	}
	if len(r.SourceAddress) > maxSources {
		return fmt.Errorf("%d source addresses, more than %d", len(r.SourceAddress), maxSources)
	}
	for _, prefix := range r.SourceAddress {
		hasHostBits := prefix != prefix.Masked()
		if !prefix.IsValid() || hasHostBits || prefix.Addr().Is4In6() {
			return fmt.Errorf("source address %q is not a network such as 192.0.2.0/24", prefix)
		}
	}
	for _, extension := range r.Extensions {
		if !extensions[extension] {
			return fmt.Errorf("the extension %q is not known", extension)
		}
	}
	return nil
}

// validity returns the first and the last second of the certificate. It begins identity.Skew before now, for
// verifiers whose clock is behind. It ends after r.TTL or at r.NotAfter: with both set at the earlier of the
// two, with neither after the profile's default lifetime. An end in the past is fault Expired. A lifetime
// over the profile's maximum is fault Invalid and not shortened, because the caller would not notice.
func (r Request) validity(now time.Time) (from, until time.Time, err error) {
	limits := profiles[r.Profile]
	if r.TTL < 0 {
		const remedy = "ask for a lifetime above zero"
		return from, until, refusedFault(fmt.Errorf("the lifetime %s is negative", r.TTL), remedy)
	}
	until = now.Add(limits.defaultTTL)
	switch {
	case r.TTL != 0:
		until = now.Add(r.TTL)
		if !r.NotAfter.IsZero() && r.NotAfter.Before(until) {
			until = r.NotAfter
		}
	case !r.NotAfter.IsZero():
		until = r.NotAfter
	}
	// Certificates have whole seconds. The end is rounded down, so it is never later than asked.
	from, until = now.Add(-identity.Skew).Truncate(time.Second), until.UTC().Truncate(time.Second)
	if !until.After(now) {
		return from, until, endPassed.New(opPrepare, fault.Args{
			"end": until.Format(time.RFC3339),
		})
	}
	// A TTL over the maximum is refused also where NotAfter ends the certificate in time.
	if longest := now.Add(limits.maxTTL); until.After(longest) || r.TTL > limits.maxTTL {
		return from, until, refusedFault(
			fmt.Errorf("a %s certificate may live %s at most", r.Profile, limits.maxTTL),
			"ask for a shorter lifetime",
		)
	}
	return from, until, nil
}
