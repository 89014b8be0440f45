package login

import (
	"context"
	"crypto"
	"crypto/x509"
	"regexp"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

const opRedeem = "login.Redeem"

// verifierRE is RFC 7636 section 4.1.
var verifierRE = regexp.MustCompile(`^[A-Za-z0-9._~-]{43,128}$`)

// maxKey bounds a public key in either form, in bytes: an RSA key of 8192 bits has about 1.1 kB.
const maxKey = 2 << 10

// Assured is a user who passed the provider and the second factor, with the public keys to which the client
// committed at the beginning. Only Redeem and RedeemHeadless make one; the zero value is nobody.
type Assured struct {
	who      identity.Identity
	proxy    identity.Identity
	from     string
	authTime time.Time
	maxTTL   time.Duration
	keys     keyPair
}

// keyPair is the public keys of a client.
type keyPair struct {
	ssh  ssh.PublicKey
	x509 crypto.PublicKey
}

// Who is the user, with the id of this login. Expires is not set: the issuer decides it.
func (a Assured) Who() identity.Identity {
	who := a.who
	who.Roles = slices.Clone(who.Roles)
	return who
}

// Keys are the public keys to which the challenge of the login committed.
func (a Assured) Keys() (ssh.PublicKey, crypto.PublicKey) { return a.keys.ssh, a.keys.x509 }

// MaxTTL bounds the life of the certificates that this login earns. Zero means the bound of the roles alone.
func (a Assured) MaxTTL() time.Duration { return a.maxTTL }

// Proxy is the proxy that served the login.
func (a Assured) Proxy() identity.Identity { return a.proxy }

// From is the browser's address, as the proxy reported it.
func (a Assured) From() string { return a.from }

// AuthTime is when the second factor was verified.
func (a Assured) AuthTime() time.Time { return a.authTime }

// Redeem exchanges a one-time code for Assured. It first checks that verifier and keys are those of the
// client that began the login, and only then uses the code up. So an attacker who has only the code can
// neither redeem it nor spoil it.
func (s *Service) Redeem(ctx context.Context, req authrpc.RedeemLoginRequest) (Assured, error) {
	a, err := s.redeem(ctx, req)
	if err != nil {
		s.refusals.record(redeem, identity.Identity{}, "", err)
		return Assured{}, err
	}
	return a, nil
}

// redeem does the work of Redeem. A malformed code gets the same error as an unknown one.
func (s *Service) redeem(ctx context.Context, req authrpc.RedeemLoginRequest) (Assured, error) {
	keys, err := parseKeys(req.Keys)
	if err != nil {
		return Assured{}, err
	}
	if len(req.Code) != codeLength || !verifierRE.MatchString(req.Verifier) {
		return Assured{}, errUnknownCode(nil)
	}
	l, err := s.cfg.Logins.PendingLogin(ctx, hashCode(req.Code))
	if fault.Is(err, fault.NotFound) {
		return Assured{}, errUnknownCode(err)
	}
	if err != nil {
		return Assured{}, err
	}
	return s.redeemPending(ctx, l, keys, req.Keys)
}

// redeemPending removes a login from the store for the client that began it, with the roles that the user
// still has.
func (s *Service) redeemPending(
	ctx context.Context, l state.Stored[state.PendingLogin], keys keyPair, sent authrpc.Keys,
) (Assured, error) {
	p := l.Value
	if !s.cfg.Now().Before(p.Expires) {
		return Assured{}, errUnknownCode(nil)
	}
	if err := checkChallenge(p.Challenge, sent); err != nil {
		return Assured{}, err
	}
	u, err := s.cfg.Logins.User(ctx, p.Who.UserKey())
	if fault.Is(err, fault.NotFound) { // removed after the second factor was verified
		return Assured{}, errUnknownCode(err)
	}
	if err != nil {
		return Assured{}, err
	}
	p.Who.Roles = u.Value.FilterRoles(p.Who.Roles)
	if err := s.redeemStored(ctx, l); err != nil {
		return Assured{}, err
	}
	return Assured{
		who:      p.Who,
		proxy:    p.Proxy,
		from:     p.From,
		authTime: p.AuthTime,
		maxTTL:   p.MaxTTL,
		keys:     keys,
	}, nil
}

// checkChallenge refuses keys and a verifier that are not those behind the challenge.
func checkChallenge(challenge string, sent authrpc.Keys) error {
	if !verifierRE.MatchString(sent.Verifier) ||
		!authrpc.ChallengeMatches(challenge, sent.Verifier, sent.SSHKey, sent.X509Key) {
		return fault.New(fault.Denied, opRedeem, "this login was made for another client or other keys",
			"log in on this machine: tsh login")
	}
	return nil
}

// redeemStored removes the login from the store. It is the step that only one of several callers passes.
func (s *Service) redeemStored(ctx context.Context, l state.Stored[state.PendingLogin]) error {
	err := s.cfg.Logins.RedeemLogin(ctx, l)
	if fault.Is(err, fault.Expired) {
		return errUnknownCode(err)
	}
	return err
}

// errUnknownCode is the one error for a code that never existed, was used, or has expired.
func errUnknownCode(cause error) error {
	return &fault.Error{
		Kind:   fault.Expired,
		Op:     opRedeem,
		Msg:    "this login was used already, has expired, or does not exist",
		Remedy: startAgain,
		Err:    cause,
	}
}

// parseKeys refuses keys for which no certificate may be issued: weak keys, certificates, and any encoding
// other than the one that the challenge hashed.
func parseKeys(sent authrpc.Keys) (keyPair, error) {
	const remedy = "update tsh, then start again: tsh login"
	refused := func(err error, which string) error {
		return fault.Wrap(err, fault.Invalid, opRedeem,
			"the "+which+" key of this request is not accepted: "+err.Error(), remedy)
	}
	if len(sent.SSHKey) > maxKey || len(sent.X509Key) > maxKey {
		return keyPair{}, fault.New(fault.Invalid, opRedeem, "a key of this request is too large", remedy)
	}
	sshKey, err := ssh.ParsePublicKey(sent.SSHKey)
	if err == nil {
		err = identity.CheckSSHKey(sshKey)
	}
	if err != nil {
		return keyPair{}, refused(err, "SSH")
	}
	x509Key, err := x509.ParsePKIXPublicKey(sent.X509Key)
	if err == nil {
		err = identity.CheckKey(x509Key)
	}
	if err != nil {
		return keyPair{}, refused(err, "X.509")
	}
	return keyPair{sshKey, x509Key}, nil
}
