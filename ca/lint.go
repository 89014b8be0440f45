package ca

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/identity"
)

// lint returns an error if the certificates of d are not well formed or not what was decided. It assumes
// nothing about how the draft was made, so that a defect in check or draft cannot get a bad certificate
// signed. check reads the request, lint reads the certificates; both check the syntax of names.
func (c *CA) lint(d *draft, now time.Time) error {
	if d.ssh == nil && d.x509 == nil {
		return errors.New("there is nothing to sign")
	}
	if len(d.encoded) == 0 || len(d.encoded) > identity.MaxBytes { // verifiers would refuse it
		return fmt.Errorf("the identity has %d bytes", len(d.encoded))
	}
	if d.ssh != nil {
		if err := lintSSH(d, now); err != nil {
			return fmt.Errorf("ssh: %w", err)
		}
	}
	if d.x509 != nil {
		if err := c.lintX509(d, now); err != nil {
			return fmt.Errorf("x509: %w", err)
		}
	}
	return c.namePolicy.check(d)
}

// lintTimes returns an error unless a certificate's validity, from and until, is as it must be. It must equal
// the draft's, so that both certificates of a request have the same. It must begin at most identity.Skew
// before now (plus a second of rounding), and end within the profile's maximum.
func lintTimes(d *draft, from, until, now time.Time) error {
	switch {
	case !from.Equal(d.from) || !until.Equal(d.until):
		return errors.New("the validity is not what was decided")
	case from.After(now) || now.Sub(from) > identity.Skew+time.Second:
		return fmt.Errorf("it is valid from %s, now is %s", from, now)
	case !until.After(now) || until.Sub(now) > profiles[d.profile].maxTTL:
		return fmt.Errorf("it is valid until %s, now is %s", until, now)
	}
	return nil
}

// lintSSH returns an error if the SSH certificate of d is not well formed. A certificate without principals
// would be valid for every account or host. One with options or extensions that were not decided could weaken
// what the verifier enforces; a host certificate has none at all.
func lintSSH(d *draft, now time.Time) error {
	cert := d.ssh
	if err := identity.CheckSSHKey(cert.Key); err != nil {
		return err
	}
	if cert.Serial == 0 || len(cert.Reserved) != 0 || cert.KeyId == "" {
		return errors.New("serial or key id is missing, or a reserved field is set")
	}
	from, until := time.Unix(int64(cert.ValidAfter), 0), time.Unix(int64(cert.ValidBefore), 0)
	if err := lintTimes(d, from, until, now); err != nil {
		return err
	}
	if n := len(cert.ValidPrincipals); n == 0 || n > maxPrincipals {
		return fmt.Errorf("%d principals", n)
	}
	if d.profile == User {
		return lintSSHUser(d)
	}
	hasOptions := len(cert.CriticalOptions)+len(cert.Extensions) != 0
	if cert.CertType != ssh.HostCert || hasOptions {
		return errors.New("a host certificate has another type, or options or extensions")
	}
	return lintHostNames(cert.ValidPrincipals)
}

// lintSSHUser checks what only user certificates have: logins, source addresses, extensions and the identity.
// There must be no other option or extension, and no permit- extension may have a value.
func lintSSHUser(d *draft) error {
	cert := d.ssh
	if cert.CertType != ssh.UserCert {
		return fmt.Errorf("type %d", cert.CertType)
	}
	for _, p := range cert.ValidPrincipals {
		if err := identity.CheckLogin(identity.Login(p)); err != nil {
			return err
		}
	}
	got, want := cert.CriticalOptions[identity.SSHSourceAddress], joinPrefixes(d.sources)
	wantOptions := min(1, len(d.sources)) // all source addresses are one option
	if got != want || len(cert.CriticalOptions) != wantOptions {
		return errors.New("the critical options are not the source addresses that were decided")
	}
	for name, value := range cert.Extensions {
		if name == identity.SSHExtension {
			continue
		}
		if !extensions[name] || value != "" {
			return fmt.Errorf("extension %q", name)
		}
	}
	if cert.Extensions[identity.SSHExtension] != string(d.encoded) {
		return errors.New("the identity is missing")
	}
	return nil
}

// lintX509 returns an error if the X.509 template of d is not well formed. It must not be the certificate of
// an authority, must not be valid for other purposes than the profile's, and must not end after the
// certificate of the authority that signs it: verifiers would refuse it.
func (c *CA) lintX509(d *draft, now time.Time) error {
	template := d.x509
	if err := identity.CheckKey(template.PublicKey); err != nil {
		return err
	}
	if template.SerialNumber.Sign() <= 0 {
		return errors.New("the serial is not positive")
	}
	if err := lintTimes(d, template.NotBefore, template.NotAfter, now); err != nil {
		return err
	}
	issuer, _ := c.keys.UserX509()
	if d.profile == Service {
		issuer, _ = c.keys.ServiceX509()
	}
	if template.NotAfter.After(issuer.NotAfter) {
		const format = "it would outlive its authority, which ends %s: rotate the authority"
		return fmt.Errorf(format, issuer.NotAfter)
	}
	isLeaf := !template.IsCA && template.BasicConstraintsValid
	usesAreProfiles := template.KeyUsage == x509.KeyUsageDigitalSignature &&
		slices.Equal(template.ExtKeyUsage, usages(d.profile)) && len(template.UnknownExtKeyUsage) == 0
	if !isLeaf || !usesAreProfiles {
		return errors.New("basic constraints or key usages are not the profile's")
	}
	return lintX509Names(d)
}

// lintX509Names returns an error unless the X.509 template of d has exactly the names of its profile: the
// identity as its one URI and as its one private extension, and for a service also host names and IP
// addresses. No profile has a mail address.
func lintX509Names(d *draft) error {
	template := d.x509
	if len(template.URIs) != 1 || template.URIs[0].String() != d.id.URI() {
		return errors.New("it does not have the identity's URI as its one URI")
	}
	want, err := identity.X509Value(d.encoded)
	if err != nil {
		return err
	}
	ext := template.ExtraExtensions
	if len(ext) != 1 || !ext[0].Id.Equal(identity.X509Extension) || !bytes.Equal(ext[0].Value, want) {
		return errors.New("it does not have the identity as its one private extension")
	}
	userHasHosts := d.profile == User && len(template.DNSNames)+len(template.IPAddresses) != 0
	if len(template.EmailAddresses) != 0 || userHasHosts {
		return errors.New("it has names that its profile does not have")
	}
	return lintHostNames(template.DNSNames)
}

// lintHostNames allows plain host names and addresses only: no wildcards, no look-alike characters.
func lintHostNames(names []string) error {
	for _, n := range names {
		if err := identity.CheckHost(n); err != nil {
			return err
		}
	}
	return nil
}
