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

// SSHExtension is the name of the certificate extension that contains the identity's JSON.
const SSHExtension = "identity@threshold"

// SSHSourceAddress is the only critical option that Threshold issues and accepts (OpenSSH PROTOCOL.certkeys).
const SSHSourceAddress = "source-address"

// Skew is how far a verifier's clock may be behind the issuer's. The issuer backdates certificates by it:
// they are valid from Skew before their issue.
const Skew = time.Minute

// MaxLifetime is the longest lifetime of a user, host or service certificate from its issue. As certificates
// are backdated, verifiers accept MaxLifetime + Skew.
const MaxLifetime = 24 * time.Hour

// SSHUser is what a verified SSH user certificate says. Only VerifySSHUser makes one.
type SSHUser struct {
	Identity
	Logins          []Login // the certificate's principals
	Serial          Serial
	sourceAddresses []netip.Prefix
}

// VerifySSHUser verifies the public key that an SSH client at address from offers, and returns whose it is.
// It accepts only a user certificate of the cluster that is signed by one of authorities, valid now, has at
// least one principal and no unknown critical options, and, if it is limited to source addresses, is used
// from one of them.
//
// It does not show that the client holds the private key: the SSH handshake does.
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
	user := SSHUser{Serial: Serial(cert.Serial)}
	if user.Identity, err = decode([]byte(cert.Extensions[SSHExtension])); err != nil {
		return SSHUser{}, err
	}
	if user.Kind != User || user.Cluster != cluster {
		return SSHUser{}, fmt.Errorf(
			"certificate is for %s of cluster %q, not for a user of %q",
			user.Kind, user.Cluster, cluster,
		)
	}
	for _, p := range cert.ValidPrincipals {
		if err := CheckLogin(Login(p)); err != nil {
			return SSHUser{}, fmt.Errorf("certificate principal: %w", err)
		}
		user.Logins = append(user.Logins, Login(p))
	}
	if user.sourceAddresses, err = readSources(cert, user.Identity); err != nil {
		return SSHUser{}, err
	}
	if err := user.CheckSourceAddress(from); err != nil {
		return SSHUser{}, err
	}
	user.Expires = time.Unix(int64(cert.ValidBefore), 0)
	return user, nil
}

// HasLogin reports whether the certificate names the login.
func (u SSHUser) HasLogin(l Login) bool { return slices.Contains(u.Logins, l) }

// CheckSourceAddress refuses an address outside the certificate's source-address option. A certificate
// without the option may be used from anywhere.
func (u SSHUser) CheckSourceAddress(from net.Addr) error {
	return checkAllowedFrom(u.sourceAddresses, from)
}

// VerifySSHHost returns an error unless key, which an SSH server offers, is a host certificate that is signed
// by one of authorities, is valid now, and has the principal host.
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

// HostMachineIDs returns the machine ids among the names in a host certificate: auth puts the id of a node
// into each of its own (auth/issue). It verifies nothing: see VerifySSHHost.
func HostMachineIDs(key ssh.PublicKey) (ids []MachineID) {
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil
	}
	for _, name := range cert.ValidPrincipals {
		if id := MachineID(name); CheckMachineID(id) == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// verifySSHCertificate verifies what user and host certificates have in common, and returns key as a
// certificate: it is of certType (ssh.UserCert or ssh.HostCert), signed by one of authorities, valid now, and
// has a principal, an acceptable key and no unknown critical option.
//
// A certificate may be nested: its key or its signer can be a certificate again. Both are refused before
// anything else is looked at, because code that takes the nested one for the outer one can be fooled
// (CVE-2025-49825).
func verifySSHCertificate(
	key ssh.PublicKey,
	certType uint32,
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
	if cert.CertType != certType {
		return nil, fmt.Errorf("certificate is of the wrong type (%d, want %d)", cert.CertType, certType)
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
		if name != SSHSourceAddress || certType != ssh.UserCert {
			return nil, fmt.Errorf("certificate has the critical option %q, which is not supported", name)
		}
	}
	// CheckCert verifies the signature. It also checks times and principal again; it must use our clock.
	checker := ssh.CertChecker{
		SupportedCriticalOptions: []string{SSHSourceAddress},
		Clock:                    func() time.Time { return now },
	}
	if err := checker.CheckCert(cert.ValidPrincipals[0], cert); err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return cert, nil
}

// checkSSHValidity returns an error for a certificate without an end, one with a lifetime over MaxLifetime +
// Skew, and one that is not valid now; the last is an *ExpiredError.
func checkSSHValidity(cert *ssh.Certificate, now time.Time) error {
	const latest = 1 << 62 // a later time would overflow the arithmetic below
	if cert.ValidBefore == ssh.CertTimeInfinity || cert.ValidBefore > latest || cert.ValidAfter > latest ||
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

// OnlyExpired reports whether a certificate is wrong only in that it has expired. err is what a verifier
// returned for it at the time now. A verifier stops at the first thing that is wrong, so OnlyExpired calls
// verify, which must run the same verifier for another time: as of the certificate's last second it must find
// nothing wrong.
func OnlyExpired(err error, now time.Time, verify func(at time.Time) error) bool {
	var expired *ExpiredError
	return errors.As(err, &expired) && !now.Before(expired.Until) &&
		verify(expired.Until.Add(-time.Second)) == nil
}

// errLifetimeTooLong is for a certificate that lives longer than ca would issue one.
var errLifetimeTooLong = fmt.Errorf("certificate is valid for longer than %s", MaxLifetime)

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// checkValidity returns an *ExpiredError unless from ≤ now < until.
// checkValidity returns an *ExpiredError unless from ≤ now < until.
func checkValidity(from, until, now time.Time) error {
	if now.Before(from) || !now.Before(until) {
		return &ExpiredError{From: from, Until: until, Now: now}
	}
	return nil
}

// readSources returns the networks in the certificate's source-address option; none if it lacks the option.
// id is the identity in the certificate. The networks are in both, because OpenSSH reads only the option.
// readSources returns an error if they disagree.
func readSources(cert *ssh.Certificate, id Identity) ([]netip.Prefix, error) {
	list, hasOption := cert.CriticalOptions[SSHSourceAddress]
	if !hasOption {
		if len(id.SourceAddresses) != 0 {
			return nil, fmt.Errorf("certificate lacks the source-address option that its identity has")
		}
		return nil, nil
	}
	networks, err := parseSourceAddress(list)
	if err != nil {
		return nil, err
	}
	if len(id.SourceAddresses) != 0 && !slices.Equal(networks, id.SourceAddresses) {
		return nil, fmt.Errorf("certificate's source-address option and its identity disagree")
	}
	return networks, nil
}

// parseSourceAddress parses the value of a source-address option: networks and addresses, separated by
// commas. A single address is returned as the network of that address alone. An empty list is an error: it
// would match no address, and an empty result would mean any.
func parseSourceAddress(list string) ([]netip.Prefix, error) {
	var networks []netip.Prefix
	for s := range strings.SplitSeq(list, ",") {
		network, err := netip.ParsePrefix(s)
		if err != nil {
			var addr netip.Addr
			if addr, err = netip.ParseAddr(s); err == nil {
				network = netip.PrefixFrom(addr, addr.BitLen())
			}
		}
		if err != nil || !network.IsValid() {
			return nil, fmt.Errorf("certificate option source-address has %.80q, which is no address", s)
		}
		networks = append(networks, network)
	}
	return networks, nil
}
