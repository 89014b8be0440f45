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

// maxKey bounds a public key in either form: RSA of 8192 bits has about 1.1 kB.
const maxKey = 2 << 10

// Assured is a person who passed provider and second factor within the life of a one-time code, and the keys
// that were there from the beginning. Only Redeem makes one; the zero value is nobody.
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

// Who is the person, by a login id of its own. Expires is not set: that is for the issuer to decide.
func (a Assured) Who() identity.Identity {
	who := a.who
	who.Roles = slices.Clone(who.Roles)
	return who
}

// Keys are the public keys that the login's challenge committed to.
func (a Assured) Keys() (ssh.PublicKey, crypto.PublicKey) { return a.keys.ssh, a.keys.x509 }

// MaxTTL bounds the life of the certificates that this login earns. Zero: as the roles say.
func (a Assured) MaxTTL() time.Duration { return a.maxTTL }

// Proxy is the proxy that the login came by.
func (a Assured) Proxy() identity.Identity { return a.proxy }

// From is the browser's address, by the proxy's word.
func (a Assured) From() string { return a.from }

// AuthTime is when the second factor was shown.
func (a Assured) AuthTime() time.Time { return a.authTime }

// Redeem spends a one-time code. Nothing is written, and the code not spent, before verifier and keys have
// shown that this is the client that began: one who only caught the code can not even spoil it.
func (s *Service) Redeem(ctx context.Context, req authrpc.RedeemLoginRequest) (Assured, error) {
	a, err := s.redeem(ctx, req)
	if err != nil {
		s.refusals.record(redeem, identity.Identity{}, "", err)
		return Assured{}, err
	}
	return a, nil
}

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

// redeemPending takes a login out of the store for the client whose keys and verifier it was begun with.
func (s *Service) redeemPending(
	ctx context.Context,
	l state.Stored[state.PendingLogin],
	keys keyPair,
	shown authrpc.Keys,
) (Assured, error) {
	p := l.Value
	if !s.cfg.Now().Before(p.Expires) {
		return Assured{}, errUnknownCode(nil)
	}
	if err := checkChallenge(p.Challenge, shown); err != nil {
		return Assured{}, err
	}
	u, err := s.cfg.Logins.User(ctx, p.Who.UserKey())
	if fault.Is(err, fault.NotFound) { // removed since the factor was shown
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

func checkChallenge(challenge string, shown authrpc.Keys) error {
	if !verifierRE.MatchString(shown.Verifier) ||
		!authrpc.ChallengeMatches(challenge, shown.Verifier, shown.SSHKey, shown.X509Key) {
		return fault.New(
			fault.Denied,
			opRedeem,
			"this login was made for another client or other keys",
			"log in on this machine: tsh login",
		)
	}
	return nil
}

func (s *Service) redeemStored(ctx context.Context, l state.Stored[state.PendingLogin]) error {
	err := s.cfg.Logins.RedeemLogin(ctx, l)
	if fault.Is(err, fault.Expired) {
		return errUnknownCode(err)
	}
	return err
}

// errUnknownCode is one answer to a code that never was, was used, or has ended.
func errUnknownCode(cause error) error {
	return &fault.Error{
		Kind:   fault.Expired,
		Op:     opRedeem,
		Msg:    "this login was used already, has expired, or does not exist",
		Remedy: startAgain,
		Err:    cause,
	}
}

// parseKeys refuses keys that no certificate may be made for: weak ones, certificates, and other encodings
// than the one that was hashed.
func parseKeys(shown authrpc.Keys) (keyPair, error) {
	bad := func(err error, which string) error {
		return fault.Wrap(
			err,
			fault.Invalid,
			opRedeem,
			"the "+which+" key of this request is not accepted: "+err.Error(),
			"update tsh, then start again: tsh login",
		)
	}
	if len(shown.SSHKey) > maxKey || len(shown.X509Key) > maxKey {
		return keyPair{}, fault.New(
			fault.Invalid,
			opRedeem,
			"a key of this request is too large",
			"update tsh, then start again: tsh login",
		)
	}
	sshKey, err := ssh.ParsePublicKey(shown.SSHKey)
	if err == nil {
		err = identity.CheckSSHKey(sshKey)
	}
	if err != nil {
		return keyPair{}, bad(err, "SSH")
	}
	x509Key, err := x509.ParsePKIXPublicKey(shown.X509Key)
	if err == nil {
		err = identity.CheckKey(x509Key)
	}
	if err != nil {
		return keyPair{}, bad(err, "X.509")
	}
	return keyPair{sshKey, x509Key}, nil
}
