package login

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/audit"
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
	from     netip.Addr
	authTime time.Time
	maxTTL   time.Duration
	keys     keyPair
	commit   Commit
}

// Commit uses a login up: it removes the stored login, and stores the issuance records of its certificates
// and the events, in one transaction. Of several concurrent calls for one login one returns nil; the others
// get fault Expired, and their certificates must not be released. Fault Conflict means that what was decided
// by has changed: whoever redeems the login again gets a new decision.
type Commit func(ctx context.Context, issued []json.RawMessage, events ...audit.Event) error

// keyPair is the public keys of a client, parsed and accepted by parseKeys.
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

// MaxTTL bounds the life of the certificates that are issued from this login. Zero means the bound of the
// roles alone.
func (a Assured) MaxTTL() time.Duration { return a.maxTTL }

// Proxy is the proxy that served the login.
func (a Assured) Proxy() identity.Identity { return a.proxy }

// From is the browser's address, as the proxy reported it; invalid if the proxy did not know it.
func (a Assured) From() netip.Addr { return a.from }

// AuthTime is when the second factor was verified.
func (a Assured) AuthTime() time.Time { return a.authTime }

// Commit uses the login up. It is nil in the zero value.
func (a Assured) Commit() Commit { return a.commit }

// Redeem exchanges a one-time code for Assured. Anyone who can reach a proxy may call it: the code and the
// verifier authenticate the caller. Assured.Commit uses the code up.
//
// It checks that verifier and keys are those of the client that began the login. So an attacker who has only
// the code can neither redeem it nor use it up. Other keys or another verifier get fault Denied, malformed
// keys fault Invalid, and a code that cannot be redeemed fault Expired.
func (s *Service) Redeem(ctx context.Context, req authrpc.RedeemLoginRequest) (Assured, error) {
	a, err := s.redeem(ctx, req)
	if err != nil {
		s.refusals.record(stepRedeem, identity.Identity{}, "", err)
		return Assured{}, err
	}
	return a, nil
}

// redeem does the work of Redeem, which records the error.
func (s *Service) redeem(ctx context.Context, req authrpc.RedeemLoginRequest) (Assured, error) {
	keys, err := parseKeys(req.Keys)
	if err != nil {
		return Assured{}, err
	}
	// A malformed code gets the same error as an unknown one, so that the caller learns nothing about codes.
	if len(req.Code) != oneTimeCodeLength || !verifierRE.MatchString(req.Verifier) {
		return Assured{}, unredeemableFault(nil)
	}
	pending, err := s.cfg.Logins.PendingLogin(ctx, hashOneTimeCode(req.Code))
	if fault.Is(err, fault.NotFound) {
		return Assured{}, unredeemableFault(err)
	}
	if err != nil {
		return Assured{}, err
	}
	return s.redeemPending(ctx, pending, keys, req.Keys)
}

// redeemPending exchanges a stored login for an Assured, the proof that a login has passed every check, which
// can be committed once. The verifier and the keys in encoded must hash to the challenge with which the
// login was started. Roles that the user has lost since are left out. keys is the parsed
// form of the keys in encoded; encoded is needed too, because the challenge is a hash of its bytes.
//
// A login that has expired, was redeemed by another call, or belongs to a user who was removed gets the same
// error as a login code that does not exist.
func (s *Service) redeemPending(
	ctx context.Context, stored state.Stored[state.PendingLogin], keys keyPair, encoded authrpc.Keys,
) (Assured, error) {
	pending := stored.Value
	if !s.cfg.Now().Before(pending.Expires) {
		return Assured{}, unredeemableFault(nil)
	}
	// An attacker who has only the code must not get an Assured, which could be committed.
	if err := checkChallenge(pending.Challenge, encoded); err != nil {
		return Assured{}, err
	}
	// The locks are read first: a change that is committed after that fails the commit of this login.
	locks, err := s.cfg.Logins.LockSet(ctx)
	if err != nil {
		return Assured{}, err
	}
	user, err := s.cfg.Logins.User(ctx, pending.Who.UserKey())
	if fault.Is(err, fault.NotFound) { // an administrator removed the user after the factor was verified
		return Assured{}, unredeemableFault(err)
	}
	if err != nil {
		return Assured{}, err
	}
	revision, err := s.cfg.Logins.ConnectorRevision(ctx, pending.Who.Connector)
	if err != nil {
		return Assured{}, err
	}
	who := pending.Who
	who.Roles = user.Value.FilterRoles(who.Roles) // without those taken away since the factor was verified
	if who.Roles, err = s.decide(ctx, stored, who, revision, locks.Locks); err != nil {
		return Assured{}, err
	}
	return Assured{
		who:      who,
		proxy:    pending.Proxy,
		from:     pending.From,
		authTime: pending.AuthTime,
		maxTTL:   pending.MaxTTL,
		keys:     keys,
		commit:   s.committer(stored, state.Decided{User: user, Locks: locks}),
	}, nil
}

// checkChallenge returns fault Denied unless the challenge commits to the verifier and the keys, byte for
// byte.
func checkChallenge(challenge string, encoded authrpc.Keys) error {
	if !verifierRE.MatchString(encoded.Verifier) ||
		!authrpc.ChallengeMatches(challenge, encoded.Verifier, encoded.SSHKey, encoded.X509Key) {
		return loginOfOtherClient.New(opRedeem)
	}
	return nil
}

// committer returns the Commit of a stored login that was decided by what is in by.
func (s *Service) committer(stored state.Stored[state.PendingLogin], by state.Decided) Commit {
	return func(ctx context.Context, issued []json.RawMessage, events ...audit.Event) error {
		err := s.cfg.Logins.RedeemLogin(ctx, stored, by, s.cfg.Now(), issued, events...)
		if fault.Is(err, fault.Conflict) {
			return loginOvertaken.Wrap(err, opRedeem)
		}
		if fault.Is(err, fault.Expired) {
			err = unredeemableFault(err)
			s.refusals.record(stepRedeem, identity.Identity{}, "", err)
		}
		return err
	}
}

// unredeemableFault is the one error for every login that cannot be redeemed: it never existed, was used, has
// expired, or its user was removed. A caller with a guessed or stolen code does not learn which; cause is
// only for the log.
func unredeemableFault(cause error) error {
	return loginNotRedeemable.New(opRedeem).Because(cause)
}

// parseKeys returns the public keys that the client sent. It refuses with fault Invalid those for which no
// certificate may be issued: weak keys, certificates in place of keys, and bytes that are no key.
func parseKeys(encoded authrpc.Keys) (keyPair, error) {
	refusedKeyFault := func(err error, which string) error {
		return loginKeyRefused.Wrap(err, opRedeem, fault.Args{"type": which, "why": err.Error()})
	}
	if len(encoded.SSHKey) > maxKey || len(encoded.X509Key) > maxKey {
		return keyPair{}, loginKeyTooLarge.New(opRedeem)
	}
	sshKey, err := ssh.ParsePublicKey(encoded.SSHKey)
	if err == nil {
		err = identity.CheckSSHKey(sshKey)
	}
	if err != nil {
		return keyPair{}, refusedKeyFault(err, "SSH")
	}
	x509Key, err := x509.ParsePKIXPublicKey(encoded.X509Key)
	if err == nil {
		err = identity.CheckKey(x509Key)
	}
	if err != nil {
		return keyPair{}, refusedKeyFault(err, "X.509")
	}
	return keyPair{sshKey, x509Key}, nil
}
