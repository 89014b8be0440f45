package tsh

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/tsh/profile"
)

// maxClockGap is how far this machine's clock may be from auth's.
const maxClockGap = 2 * time.Minute

// verify checks all that a redeemed login brought before any of it is kept: the authorities under the pin,
// both certificates under the authorities, and that they are for our keys.
func verify(
	resp authrpc.RedeemLoginResponse,
	at cluster,
	k *loginKeys,
	now time.Time,
) (*profile.Profile, error) {
	if err := checkClock(resp.Time, now); err != nil {
		return nil, err
	}
	p, err := open(resp, at, k, now)
	return p, fault.Wrap(
		err,
		fault.Invalid,
		"",
		"what auth sent does not hold: "+fmt.Sprint(err),
		"log in again; if it stays so, show this message to an administrator",
	)
}

func checkClock(theirs, now time.Time) error {
	gap := now.Sub(theirs)
	if gap.Abs() <= maxClockGap {
		return nil
	}
	side := "ahead of"
	if gap < 0 {
		side = "behind"
	}
	return fault.New(
		fault.Invalid,
		"",
		fmt.Sprintf(
			"this machine's clock is %s %s the cluster's (here %s, there %s)",
			gap.Abs().Round(time.Second),
			side,
			now.UTC().
				Format(time.RFC3339),
			theirs.UTC().Format(time.RFC3339),
		),
		"set this machine's clock, then log in again",
	)
}

func open(
	resp authrpc.RedeemLoginResponse,
	at cluster,
	k *loginKeys,
	now time.Time,
) (*profile.Profile, error) {
	name, trusted, err := rules.OpenAuthorities(at.pin, resp.Authorities)
	if err != nil {
		return nil, err
	}
	if at.name != identity.AnyCluster && at.name != name {
		return nil, fmt.Errorf("the cluster calls itself %q, not %q", name, at.name)
	}
	peer, chain, err := verifyX509(resp.X509, name, trusted, k, now)
	if err != nil {
		return nil, err
	}
	p := &profile.Profile{
		Pin:         at.pin,
		SSHKey:      k.ssh,
		Chain:       resp.Authorities,
		Authorities: trusted,
		X509:        chain,
	}
	p.Info = profile.Info{Cluster: name, User: peer.Name, Roles: peer.Roles, Expires: peer.Expires.UTC()}
	if len(resp.SSHCert) == 0 {
		return p, nil
	}
	user, cert, err := verifySSH(resp.SSHCert, name, trusted, k, now)
	if err != nil {
		return nil, err
	}
	if user.UserKey() != peer.UserKey() || user.LoginID != peer.LoginID {
		return nil, errors.New("the two certificates are of different logins")
	}
	p.SSHCert, p.Logins = cert, user.Logins
	slices.Sort(p.Logins)
	if user.Expires.Before(p.Expires) {
		p.Expires = user.Expires.UTC()
	}
	return p, nil
}

func verifyX509(
	ders [][]byte,
	name string,
	trusted rules.ParsedAuthorities,
	k *loginKeys,
	now time.Time,
) (identity.Peer, tls.Certificate, error) {
	var chain []*x509.Certificate
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return identity.Peer{}, tls.Certificate{}, err
		}
		chain = append(chain, c)
	}
	peer, err := identity.VerifyX509(
		chain,
		name,
		trusted.UserRoots,
		x509.ExtKeyUsageClientAuth,
		now,
		identity.User,
	)
	if err != nil {
		return identity.Peer{}, tls.Certificate{}, err
	}
	if !k.x509.PublicKey.Equal(peer.Cert.PublicKey) {
		return identity.Peer{}, tls.Certificate{}, errors.New("the X.509 certificate is not for our key")
	}
	return peer, tls.Certificate{Certificate: ders, PrivateKey: k.x509, Leaf: peer.Cert}, nil
}

func verifySSH(
	wire []byte,
	name string,
	trusted rules.ParsedAuthorities,
	k *loginKeys,
	now time.Time,
) (identity.SSHUser, *ssh.Certificate, error) {
	key, err := ssh.ParsePublicKey(wire)
	if err != nil {
		return identity.SSHUser{}, nil, err
	}
	user, err := identity.VerifySSHUser(key, name, trusted.UserSSH, permittedAddress(key), now)
	if err != nil {
		return identity.SSHUser{}, nil, err
	}
	cert := key.(*ssh.Certificate) // VerifySSHUser accepts nothing else
	if !bytes.Equal(cert.Key.Marshal(), k.sshPub) {
		return identity.SSHUser{}, nil, errors.New("the SSH certificate is not for our key")
	}
	return user, cert, nil
}

// permittedAddress is an address that the certificate's own pin permits, or nil where it has none: we do not
// know which address the proxy sees, and the check is the proxy's and the node's.
func permittedAddress(key ssh.PublicKey) net.Addr {
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil
	}
	first, _, _ := bytes.Cut([]byte(cert.CriticalOptions[identity.SSHSourceAddress]), []byte(","))
	if ip, _, err := net.ParseCIDR(string(first)); err == nil {
		return &net.TCPAddr{IP: ip, Port: math.MaxUint16}
	}
	if ip := net.ParseIP(string(first)); ip != nil {
		return &net.TCPAddr{IP: ip, Port: math.MaxUint16}
	}
	return nil
}
