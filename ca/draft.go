package ca

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/identity"
)

// draft has the unsigned certificates of one request, and what was decided about them. lint compares the two
// before anything is signed.
type draft struct {
	profile     Profile
	id          identity.Identity
	encoded     []byte // id as it is encoded in the certificates
	serial      identity.Serial
	principals  []string // SSH principals, or the names of a service
	from, until time.Time
	sources     []netip.Prefix    // source addresses of a user
	permits     []string          // permit-* extensions of the SSH certificate
	ssh         *ssh.Certificate  // unsigned; nil when none was asked for, or for a user without logins
	x509        *x509.Certificate // template; nil when none was asked for
}

// maxCN is the upper bound of a commonName (RFC 5280 appendix A.1, ub-common-name).
const maxCN = 64

// draft checks the request and returns the certificates to sign, with a new serial. A request that must not
// be signed is fault Invalid or, if its end is in the past, fault Expired.
func (c *CA) draft(r Request, now time.Time) (*draft, error) {
	if err := c.check(r); err != nil {
		return nil, err
	}
	out := &draft{profile: r.Profile, id: r.Identity, serial: newSerial(), sources: r.SourceAddress}
	var err error
	if out.from, out.until, err = r.validity(now); err != nil {
		return nil, err
	}
	// The CA decides these fields. What the caller put there does not get into a certificate.
	out.id.V, out.id.Expires, out.id.SourceAddresses = identity.Version, out.until, r.SourceAddress
	out.id.IssuedAt = now.Truncate(time.Second)
	if out.encoded, err = out.id.Encode(); err != nil {
		return nil, refusedFault(err, askAdmin)
	}
	switch {
	case r.Profile != User:
		out.principals = distinct(r.Names)
	case r.SSHKey != nil:
		out.principals = distinct(r.Logins)
	}
	// An SSH certificate without principals would be valid for every account, so there is none.
	if r.SSHKey != nil && len(out.principals) != 0 {
		out.permits = distinct(r.Extensions)
		out.ssh = out.draftSSH(r)
	}
	if r.X509Key != nil {
		if out.x509, err = out.draftX509(r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// draftSSH makes the unsigned SSH certificate for r.SSHKey, from what draft has decided. The fields are those
// of OpenSSH's PROTOCOL.certkeys. Only a user certificate contains the identity.
func (d *draft) draftSSH(r Request) *ssh.Certificate {
	cert := &ssh.Certificate{
		Key:             r.SSHKey,
		Serial:          uint64(d.serial),
		CertType:        ssh.HostCert,
		KeyId:           d.id.String() + "@" + d.id.Cluster,
		ValidPrincipals: d.principals,
		ValidAfter:      uint64(d.from.Unix()),
		ValidBefore:     uint64(d.until.Unix()),
	}
	if d.profile != User {
		return cert // PROTOCOL.certkeys defines no option and no extension for hosts
	}
	cert.CertType, cert.KeyId = ssh.UserCert, d.id.KeyID()
	cert.Extensions = map[string]string{identity.SSHExtension: string(d.encoded)}
	for _, permit := range d.permits {
		cert.Extensions[permit] = "" // these extensions have no value
	}
	if len(d.sources) != 0 {
		cert.CriticalOptions = map[string]string{identity.SSHSourceAddress: joinPrefixes(d.sources)}
	}
	return cert
}

// draftX509 makes the template of the X.509 certificate (RFC 5280) for r.X509Key, from what draft has
// decided. It contains the identity twice: as a URI in the SAN, and encoded in a private extension. A service
// also gets its names: IP addresses and DNS names in the SAN.
func (d *draft) draftX509(r Request) (*x509.Certificate, error) {
	value, err := identity.X509Value(d.encoded)
	if err != nil {
		return nil, refusedFault(fmt.Errorf("the identity cannot be encoded: %w", err), askAdmin)
	}
	uri, err := url.Parse(d.id.URI())
	if err != nil {
		return nil, refusedFault(fmt.Errorf("the identity gives no URI: %w", err), askAdmin)
	}
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetUint64(uint64(d.serial)),
		PublicKey:             r.X509Key,
		NotBefore:             d.from,
		NotAfter:              d.until,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usages(d.profile),
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{uri},
		ExtraExtensions:       []pkix.Extension{{Id: identity.X509Extension, Value: value}},
	}
	// The common name is only displayed; no verifier of ours reads it. A name that is too long is left out
	// and not cut, because a cut name is another name.
	if len(d.id.Name) <= maxCN {
		template.Subject.CommonName = d.id.Name
	}
	if d.profile != Service {
		return template, nil
	}
	for _, name := range d.principals {
		if addr, err := netip.ParseAddr(name); err == nil {
			template.IPAddresses = append(template.IPAddresses, net.IP(addr.AsSlice()))
			continue
		}
		template.DNSNames = append(template.DNSNames, name)
	}
	return template, nil
}

// usages are the extended key usages of a profile. Only services may act as a TLS server.
func usages(p Profile) []x509.ExtKeyUsage {
	if p == Service {
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
}

// distinct drops repeats and keeps the order.
func distinct[S ~string](in []S) []string {
	var out []string
	seen := make(map[S]bool, len(in))
	for _, s := range in {
		if !seen[s] {
			seen[s], out = true, append(out, string(s))
		}
	}
	return out
}

// joinPrefixes is the value of the critical option source-address (OpenSSH PROTOCOL.certkeys).
func joinPrefixes(ps []netip.Prefix) string {
	s := make([]string, len(ps))
	for i, p := range ps {
		s[i] = p.String()
	}
	return strings.Join(s, ",")
}
