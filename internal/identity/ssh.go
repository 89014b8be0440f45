package identity

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// SSHExtension is the certificate extension that carries the identity's JSON.
const SSHExtension = "identity@threshold"

// SSHSourceAddress is the only critical option that Threshold issues and accepts (OpenSSH PROTOCOL.certkeys).
const SSHSourceAddress = "source-address"

// Skew is how far a verifier's clock may be behind the issuer's. Certificates are valid from their issue
// minus Skew.
const Skew = time.Minute

// MaxLifetime is the longest lifetime of a user, host or service certificate from its issue. As certificates
// are backdated, verifiers accept MaxLifetime + Skew.
const MaxLifetime = 24 * time.Hour

// SSHUser is what a verified SSH user certificate says: the identity and its logins. Only VerifySSHUser makes
// one.
type SSHUser struct {
	Identity
	Logins          []Login
	Serial          Serial
	sourceAddresses []netip.Prefix
}

// VerifySSHUser accepts a public key only if it is a user certificate of the cluster, signed by one of
// authorities, valid now, with at least one principal, without unknown critical options, and used from one of
// its source addresses where it has some. It does not prove that the peer holds the key: the SSH handshake
// does.
func VerifySSHUser(
	key ssh.PublicKey,
	cluster string,
	authorities []ssh.PublicKey,
	from net.Addr,
	now time.Time,
) (SSHUser, error) {
	cert, err := verifySSHCertificate(key, ssh.UserCert, authorities, now)
	if err != nil {
		return SSHUser{}, err
	}
	u := SSHUser{Serial: Serial(cert.Serial)}
	if u.Identity, err = decode([]byte(cert.Extensions[SSHExtension])); err != nil {
		return SSHUser{}, err
	}
	if u.Kind != User || u.Cluster != cluster {
		return SSHUser{}, fmt.Errorf(
			"certificate is for %s of cluster %q, not for a user of %q",
			u.Kind, u.Cluster, cluster,
		)
	}
	for _, p := range cert.ValidPrincipals {
		if err := CheckLogin(Login(p)); err != nil {
			return SSHUser{}, fmt.Errorf("certificate principal: %w", err)
		}
		u.Logins = append(u.Logins, Login(p))
	}
	if u.sourceAddresses, err = readSources(cert, u.Identity); err != nil {
		return SSHUser{}, err
	}
	if err := u.CheckSourceAddress(from); err != nil {
		return SSHUser{}, err
	}
	u.Expires = time.Unix(int64(cert.ValidBefore), 0)
	return u, nil
}

// HasLogin reports whether the certificate names the login.
func (u SSHUser) HasLogin(l Login) bool { return slices.Contains(u.Logins, l) }

// CheckSourceAddress refuses an address outside the certificate's source-address option. A certificate
// without the option may be used from anywhere.
func (u SSHUser) CheckSourceAddress(from net.Addr) error {
	return checkAllowedFrom(u.sourceAddresses, from)
}

// VerifySSHHost accepts a host key only if it is a host certificate with the principal host, signed by one of
// authorities, and valid now.
func VerifySSHHost(key ssh.PublicKey, host string, authorities []ssh.PublicKey, now time.Time) error {
	cert, err := verifySSHCertificate(key, ssh.HostCert, authorities, now)
	if err != nil {
		return err
	}
	for _, p := range cert.ValidPrincipals {
		if err := CheckHost(p); err != nil {
			return fmt.Errorf("host certificate principal: %w", err)
		}
	}
	if !slices.Contains(cert.ValidPrincipals, host) {
		return fmt.Errorf("host certificate names %s, not %s", strings.Join(cert.ValidPrincipals, ", "), host)
	}
	return nil
}

// verifySSHCertificate has the checks that user and host certificates share. The signer must be a plain key
// among the authorities, and the subject key no certificate; both are checked before anything else is read
// (CVE-2025-49825).
func verifySSHCertificate(
	key ssh.PublicKey,
	typ uint32,
	authorities []ssh.PublicKey,
	now time.Time,
) (*ssh.Certificate, error) {
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, fmt.Errorf("a plain key was offered, not a certificate")
	}
	if _, nested := cert.SignatureKey.(*ssh.Certificate); nested || cert.SignatureKey == nil {
		return nil, fmt.Errorf("certificate is signed by a certificate")
	}
	if err := CheckSSHKey(cert.Key); err != nil {
		return nil, fmt.Errorf("certificate's key: %w", err)
	}
	if cert.Signature == nil || cert.Signature.Format == ssh.KeyAlgoRSA {
		return nil, fmt.Errorf("certificate has no signature, or one with SHA-1")
	}
	if cert.CertType != typ {
		return nil, fmt.Errorf("certificate is of the wrong type (%d, want %d)", cert.CertType, typ)
	}
	signer := cert.SignatureKey.Marshal()
	isSigner := func(a ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), signer) }
	if !slices.ContainsFunc(authorities, isSigner) {
		return nil, fmt.Errorf(
			"certificate is signed by an authority this cluster does not have (%s)",
			ssh.FingerprintSHA256(cert.SignatureKey),
		)
	}
	if len(cert.ValidPrincipals) == 0 {
		return nil, fmt.Errorf("certificate has no principals")
	}
	if err := checkSSHValidity(cert, now); err != nil {
		return nil, err
	}
	for name := range cert.CriticalOptions {
		if name != SSHSourceAddress || typ != ssh.UserCert {
			return nil, fmt.Errorf("certificate has the critical option %q, which is not supported", name)
		}
	}
	// CheckCert verifies the signature, and the times and the principal once more, by our clock.
	checker := ssh.CertChecker{
		SupportedCriticalOptions: []string{SSHSourceAddress},
		Clock:                    func() time.Time { return now },
	}
	if err := checker.CheckCert(cert.ValidPrincipals[0], cert); err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return cert, nil
}

// checkSSHValidity refuses a certificate without an end, with a lifetime over MaxLifetime + Skew, or not
// valid now. Times beyond 2^62 would overflow the arithmetic.
func checkSSHValidity(cert *ssh.Certificate, now time.Time) error {
	if cert.ValidBefore == ssh.CertTimeInfinity || cert.ValidBefore > 1<<62 || cert.ValidAfter > 1<<62 ||
		cert.ValidAfter >= cert.ValidBefore {
		return fmt.Errorf("certificate has a malformed validity period")
	}
	if cert.ValidBefore-cert.ValidAfter > uint64((MaxLifetime+Skew+time.Second)/time.Second) {
		return errLifetimeTooLong
	}
	return checkValidity(time.Unix(int64(cert.ValidAfter), 0), time.Unix(int64(cert.ValidBefore), 0), now)
}

// ExpiredError says that a certificate has expired, or is not valid yet.
type ExpiredError struct {
	From, Until, Now time.Time
}

func (e *ExpiredError) Error() string {
	if e.Now.Before(e.From) {
		return fmt.Sprintf(
			"certificate is not valid before %s, which is %s from now: "+
				"check this machine's clock (it says %s)",
			formatTime(e.From),
			e.From.Sub(e.Now).Round(time.Second),
			formatTime(e.Now),
		)
	}
	return fmt.Sprintf(
		"certificate expired at %s, %s ago (this machine's clock says %s)",
		formatTime(e.Until), e.Now.Sub(e.Until).Round(time.Second), formatTime(e.Now),
	)
}

// OnlyExpired reports whether err, which a verifier returned for the time now, says that the certificate has
// expired and nothing else is wrong with it: verify, called for the certificate's last second, finds no
// fault.
func OnlyExpired(err error, now time.Time, verify func(at time.Time) error) bool {
	var old *ExpiredError
	return errors.As(err, &old) && !now.Before(old.Until) && verify(old.Until.Add(-time.Second)) == nil
}

// errLifetimeTooLong is for a certificate that lives longer than ca would issue one.
var errLifetimeTooLong = fmt.Errorf("certificate is valid for longer than %s", MaxLifetime)

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func checkValidity(from, until, now time.Time) error {
	if now.Before(from) || !now.Before(until) {
		return &ExpiredError{From: from, Until: until, Now: now}
	}
	return nil
}

// readSources reads the certificate's source-address option. The identity's list, if there is one, must be
// the same.
func readSources(cert *ssh.Certificate, id Identity) ([]netip.Prefix, error) {
	list, pinned := cert.CriticalOptions[SSHSourceAddress]
	if !pinned {
		if len(id.SourceAddresses) != 0 {
			return nil, fmt.Errorf("certificate lacks the source-address option that its identity has")
		}
		return nil, nil
	}
	from, err := parseSourceAddress(list)
	if err != nil {
		return nil, err
	}
	if len(id.SourceAddresses) != 0 && !slices.Equal(from, id.SourceAddresses) {
		return nil, fmt.Errorf("certificate's source-address option and its identity disagree")
	}
	return from, nil
}

// parseSourceAddress reads the option's list of networks and addresses. An empty list is an error: no address
// would match it.
func parseSourceAddress(list string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for s := range strings.SplitSeq(list, ",") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(s); err == nil {
				p = netip.PrefixFrom(a, a.BitLen())
			}
		}
		if err != nil || !p.IsValid() {
			return nil, fmt.Errorf("certificate option source-address has %.80q, which is no address", s)
		}
		out = append(out, p)
	}
	return out, nil
}
