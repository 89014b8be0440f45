package login

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/netip"
	"net/url"
	"slices"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/totp"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

const opProve = "login.Prove"

const (
	oneTimeCodeBytes   = 32  // random bytes in a one-time code
	oneTimeCodeLength  = 43  // characters of a one-time code as base64 text
	maxFactorCodeBytes = 256 // what a user may type as the code of the second factor
)

// Prove verifies the code of the second factor and stores the finished login. The response has the address at
// tsh's callback to which the browser brings the one-time code; for a headless login it has none, because tsh
// asks the auth service itself. After an enrolment the response also has the recovery codes.
//
// After a wrong code the same attempt may be tried again until it expires. The caller must be a proxy.
func (s *Service) Prove(
	ctx context.Context, by identity.Identity, req authrpc.ProveFactorRequest,
) (authrpc.ProveFactorResponse, error) {
	attempt, err := s.openIdentified(by, req)
	if err != nil {
		s.refusals.record(stepProve, by, req.From, err)
		return authrpc.ProveFactorResponse{}, err
	}
	// The login id is drawn before the code is checked, so that the audit events of the check name it too.
	attempt.User.LoginID = identity.LoginID(state.NewID())
	proof, err := s.cfg.Factor.Verify(ctx, totp.Answer{
		Who:       attempt.User,
		Code:      req.Code,
		From:      req.From,
		Proxy:     by.Name,
		Enrolment: attempt.Enrolment,
	})
	if err != nil {
		return authrpc.ProveFactorResponse{}, err // Verify has stored the audit events of its refusal
	}
	res, err := s.storeLogin(ctx, by, req.From, attempt, proof)
	if err != nil {
		return authrpc.ProveFactorResponse{}, s.recordRefusal(ctx, attempt.User, by, req.From, err)
	}
	return res, nil
}

// openIdentified opens the attempt of the page on which the code was entered. It returns fault Denied for a
// caller that is no proxy, Invalid for a malformed request and a foreign attempt, and Expired for an old one.
func (s *Service) openIdentified(
	by identity.Identity, req authrpc.ProveFactorRequest,
) (attempt identifiedAttempt, err error) {
	if err := checkProxy(opProve, by); err != nil {
		return attempt, err
	}
	if len(req.From) > maxFrom || len(req.Code) > maxFactorCodeBytes {
		return attempt, secondFactorTooLong.New(opProve)
	}
	err = s.sealer.open(opProve, stageIdentified, req.Attempt, s.cfg.Now(), &attempt)
	return attempt, err
}

// storeLogin stores the finished login until tsh redeems it, together with its audit event, and returns what
// the browser does next. by is the proxy, and from the browser's address. It refuses a proof of another user
// with fault Internal, although Prove never sends one: a mistake in this package must not let one user's code
// log in another.
func (s *Service) storeLogin(
	ctx context.Context, by identity.Identity, from string, attempt identifiedAttempt, proof totp.Proof,
) (res authrpc.ProveFactorResponse, err error) {
	if proof.Who() != attempt.User.UserKey() || proof.Method() == "" {
		return res, secondFactorOfOtherUser.New(opProve)
	}
	who, err := s.assuredIdentity(ctx, attempt, proof)
	if err != nil {
		return res, err
	}
	now := s.cfg.Now().UTC()
	succeeded := audit.NewEvent(audit.LoginSucceeded, who, now)
	succeeded.From, succeeded.Proxy = from, by.Name
	succeeded.Fields = map[string]string{"factor": who.Factor}
	pending := state.PendingLogin{
		Who:       who,
		Mapped:    attempt.User.Roles,
		Proxy:     by,
		From:      from,
		Challenge: attempt.Client.Challenge,
		AuthTime:  now,
		Expires:   now.Add(CodeLife),
	}
	res = authrpc.ProveFactorResponse{Name: who.Name, RecoveryCodes: proof.RecoveryCodes()}
	if handle := attempt.Client.Headless; handle != nil {
		pending.MaxTTL = HeadlessLife
		succeeded.Fields["headless"] = handle.From.String()
		return res, s.storeHeadless(ctx, handle, pending, succeeded)
	}
	code, hash := newOneTimeCode()
	if len(res.RecoveryCodes) > 0 {
		pending.Expires = now.Add(FirstCodeLife) // the user writes them down before the browser goes on
	}
	params := url.Values{"code": {code}, "state": {attempt.Client.State}}
	res.Redirect = attempt.Client.Callback + "?" + params.Encode()
	return res, s.cfg.Logins.AddLogin(ctx, hash, pending, succeeded)
}

// assuredIdentity returns the identity that the certificates of the finished login will contain: the user
// with the method of the second factor, all their roles, and for a headless login the network to which it is
// pinned. An identity that does not fit into a certificate is refused here with fault Exhausted, while the
// user still looks at the page, and not when tsh redeems the login.
func (s *Service) assuredIdentity(
	ctx context.Context, attempt identifiedAttempt, proof totp.Proof,
) (who identity.Identity, err error) {
	who = attempt.User
	who.Factor = proof.Method()
	if who.Roles, err = s.currentRoles(ctx, who); err != nil {
		return who, err
	}
	if handle := attempt.Client.Headless; handle != nil {
		who.SourceAddresses = []netip.Prefix{handle.network()}
	}
	if _, err := who.Encode(); err != nil {
		return who, identityTooLarge.Wrap(err, opProve, fault.Args{"why": err.Error()})
	}
	return who, nil
}

// currentRoles returns the roles in who, which the connector mapped, and those that an administrator gave the
// user, sorted and each once. A user without any role may log in, but is allowed nothing.
func (s *Service) currentRoles(ctx context.Context, who identity.Identity) ([]string, error) {
	user, err := s.cfg.Logins.User(ctx, who.UserKey())
	if err != nil && !fault.Is(err, fault.NotFound) { // NotFound: this is the user's first login
		return nil, err
	}
	roles := slices.Concat(who.Roles, user.Value.Roles)
	slices.Sort(roles)
	return slices.Compact(roles), nil
}

// newOneTimeCode draws the one-time code of a finished login and returns it with its hash. Only the hash is
// stored, so whoever reads the store cannot redeem the login.
func newOneTimeCode() (code string, hash state.CodeHash) {
	var b [oneTimeCodeBytes]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
	code = base64.RawURLEncoding.EncodeToString(b[:])
	return code, hashOneTimeCode(code)
}

// hashOneTimeCode returns the hash under which a login with that code is stored.
func hashOneTimeCode(code string) state.CodeHash {
	return sha256.Sum256([]byte("threshold login code v1\x00" + code))
}
