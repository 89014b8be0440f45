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

// maxClockGap is how far this machine's clock may differ from that of the auth service.
const maxClockGap = 2 * time.Minute

// verify checks resp, the answer of the auth service that ends a login, and returns the profile to store. The
// caller must not store or use anything of resp that verify has not accepted. It returns an Invalid fault if
// this machine's clock differs too much from the auth service's, if the pin of target does not verify the
// authorities, or if a certificate is not signed by these authorities, not for the keys of this login, or not
// valid now.
func verify(
	resp authrpc.RedeemLoginResponse,
	target cluster,
	keys *loginKeys,
	now time.Time,
) (*profile.Profile, error) {
	if err := checkClock(resp.Time, now); err != nil {
		return nil, err
	}
	prof, err := verifyLogin(resp, target, keys, now)
	if err != nil {
		return nil, loginAnswerInvalid.Wrap(err, "", fault.Args{"why": err.Error()})
	}
	return prof, nil
}

// checkClock returns an Invalid fault if now, this machine's time, differs by more than maxClockGap from
// clusterTime, which a proxy or the auth service has just sent.
func checkClock(clusterTime, now time.Time) error {
	gap := now.Sub(clusterTime)
	if gap.Abs() <= maxClockGap {
		return nil
	}
	side := "ahead of"
	if gap < 0 {
		side = "behind"
	}
	return clockWrong.New("", fault.Args{
		"gap":   gap.Abs().Round(time.Second),
		"side":  side,
		"here":  now.UTC().Format(time.RFC3339),
		"there": clusterTime.UTC().Format(time.RFC3339),
	})
}

// verifyLogin verifies resp in the order of trust: the pin of target verifies the authorities, and the
// authorities verify the certificates. It returns the profile of the login without the addresses of proxies,
// which the caller sets.
func verifyLogin(
	resp authrpc.RedeemLoginResponse,
	target cluster,
	keys *loginKeys,
	now time.Time,
) (*profile.Profile, error) {
	name, authorities, err := rules.OpenAuthorities(target.pin, resp.Authorities)
	if err != nil {
		return nil, err
	}
	if target.name != identity.AnyCluster && target.name != name {
		return nil, fmt.Errorf("the cluster calls itself %q, not %q", name, target.name)
	}
	peer, chain, err := verifyX509(resp.X509, name, authorities, keys, now)
	if err != nil {
		return nil, err
	}
	prof := &profile.Profile{
		Info: profile.Info{
			Cluster:    name,
			Pin:        target.pin,
			User:       peer.Name,
			Roles:      peer.Roles,
			Issued:     peer.IssuedAt.UTC(),
			AuthTime:   peer.AuthTime.UTC(),
			Factor:     peer.Factor,
			FactorTime: peer.FactorTime.UTC(),
			Expires:    peer.Expires.UTC(),
		},
		SSHKey:      keys.ssh,
		X509:        chain,
		Chain:       resp.Authorities,
		Authorities: authorities,
	}
	if len(resp.SSHCert) == 0 { // the user's roles allow no login on any node
		return prof, nil
	}
	user, cert, err := verifySSH(resp.SSHCert, name, authorities, keys, now)
	if err != nil {
		return nil, err
	}
	// Both certificates must come from this login: the profile describes them as one.
	if user.UserKey() != peer.UserKey() || user.LoginID != peer.LoginID {
		return nil, errors.New("the two certificates are of different logins")
	}
	prof.SSHCert, prof.Logins = cert, user.Logins
	slices.Sort(prof.Logins)
	if user.Expires.Before(prof.Expires) { // the login ends with the first of the two
		prof.Expires = user.Expires.UTC()
	}
	return prof, nil
}

// verifyX509 verifies that chainDER, with the leaf first, is a user's X.509 certificate of the cluster,
// signed by its authorities, valid now, and for the key of this login. It returns who the certificate names,
// and the certificate with its key.
func verifyX509(
	chainDER [][]byte,
	clusterName string,
	authorities rules.ParsedAuthorities,
	keys *loginKeys,
	now time.Time,
) (identity.Peer, tls.Certificate, error) {
	var chain []*x509.Certificate
	for _, der := range chainDER {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return identity.Peer{}, tls.Certificate{}, err
		}
		chain = append(chain, c)
	}
	usage := x509.ExtKeyUsageClientAuth
	peer, err := identity.VerifyX509(chain, clusterName, authorities.UserRoots, usage, now, identity.User)
	if err != nil {
		return identity.Peer{}, tls.Certificate{}, err
	}
	if !keys.x509.PublicKey.Equal(peer.Cert.PublicKey) {
		return identity.Peer{}, tls.Certificate{}, errors.New("the X.509 certificate is not for our key")
	}
	return peer, tls.Certificate{Certificate: chainDER, PrivateKey: keys.x509, Leaf: peer.Cert}, nil
}

// verifySSH verifies that wire, in SSH wire format, is a user's SSH certificate of the cluster, signed by its
// authorities, valid now, and for the key of this login. It returns who the certificate names, and the
// certificate.
func verifySSH(
	wire []byte,
	clusterName string,
	authorities rules.ParsedAuthorities,
	keys *loginKeys,
	now time.Time,
) (identity.SSHUser, *ssh.Certificate, error) {
	key, err := ssh.ParsePublicKey(wire)
	if err != nil {
		return identity.SSHUser{}, nil, err
	}
	user, err := identity.VerifySSHUser(key, clusterName, authorities.UserSSH, permittedAddress(key), now)
	if err != nil {
		return identity.SSHUser{}, nil, err
	}
	cert := key.(*ssh.Certificate) // VerifySSHUser accepts nothing else
	if !bytes.Equal(cert.Key.Marshal(), keys.sshPub) {
		return identity.SSHUser{}, nil, errors.New("the SSH certificate is not for our key")
	}
	return user, cert, nil
}

// permittedAddress returns an address from which the certificate's source-address option permits a login, or
// nil without that option. VerifySSHUser wants the client's address, but tsh does not know which address the
// proxy and the node will see. They check it; here any permitted address lets the other checks run.
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
