package login

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/threshold-access/threshold/auth/factor"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

const (
	opShow  = "login.ShowFactor"
	opProve = "login.Prove"
)

const (
	oneTimeCodeBytes  = 32 // random bytes in a one-time code
	oneTimeCodeLength = 43 // characters of a one-time code as base64 text
	// Bounds of the answer to a challenge, in bytes. One of WebAuthn has some kilobytes.
	maxFactorKind = 32
	maxFactorBody = 16 << 10
)

// ShowFactor returns what the page for the second factor shows. It may be called any number of times until
// the attempt expires or makes a login. The caller must be a proxy.
func (s *Service) ShowFactor(
	ctx context.Context, by identity.Identity, req authrpc.ShowFactorRequest,
) (res authrpc.ShowFactorResponse, err error) {
	attempt, ref, err := s.openIdentified(ctx, opShow, by, req.Attempt)
	if err != nil {
		s.refusals.record(stepProve, by, addrText(req.From), err)
		return res, err
	}
	res = authrpc.ShowFactorResponse{
		Name:     attempt.User.Name,
		Headless: attempt.Client.headlessPrompt(),
		Expires:  ref.Expires,
	}
	for _, c := range attempt.Challenges {
		res.Challenges = append(res.Challenges, authrpc.FactorChallenge(c))
	}
	return res, nil
}

// Prove verifies the answer to a challenge and stores the finished login. The response has the address at
// tsh's callback to which the browser brings the one-time code; for a headless login it has none, because tsh
// asks the auth service itself. After an enrolment the response also has the recovery codes.
//
// After a wrong answer the same attempt may be tried again until it expires. After a right one it is used.
// The caller must be a proxy.
func (s *Service) Prove(
	ctx context.Context, by identity.Identity, req authrpc.ProveFactorRequest,
) (authrpc.ProveFactorResponse, error) {
	attempt, err := s.openProof(ctx, by, req)
	if err != nil {
		s.refusals.record(stepProve, by, addrText(req.From), err)
		return authrpc.ProveFactorResponse{}, err
	}
	proof, err := s.cfg.Factors.Verify(ctx, factor.Answer{
		Who:        attempt.User,
		Challenges: attempt.Challenges,
		Response:   factor.Response(req.Response),
		From:       req.From,
		Proxy:      by.Name,
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

// openProof checks the bounds of the request and opens its attempt.
func (s *Service) openProof(
	ctx context.Context, by identity.Identity, req authrpc.ProveFactorRequest,
) (identifiedAttempt, error) {
	if len(req.Response.Kind) > maxFactorKind || len(req.Response.Body) > maxFactorBody {
		return identifiedAttempt{}, secondFactorTooLong.New(opProve)
	}
	attempt, _, err := s.openIdentified(ctx, opProve, by, req.Attempt)
	return attempt, err
}

// openIdentified opens the browser's reference to an attempt, and reads the attempt. It returns fault Denied
// for a caller that is no proxy, Invalid for a foreign reference, and Expired for an attempt that is old or
// used. The store is read only for a reference that this cluster has sealed.
func (s *Service) openIdentified(
	ctx context.Context, op string, by identity.Identity, cookie string,
) (attempt identifiedAttempt, ref attemptRef, err error) {
	if err := checkProxy(op, by); err != nil {
		return attempt, ref, err
	}
	if err := s.sealer.open(op, stageIdentified, cookie, s.cfg.Now(), &ref); err != nil {
		return attempt, ref, err
	}
	stored, err := s.cfg.Attempts.Attempt(ctx, hashAttemptID(ref.ID))
	if err != nil {
		return attempt, ref, err
	}
	err = decode(op, stored.Content, &attempt)
	attempt.stored = stored
	return attempt, ref, err
}

// storeLogin stores the finished login until tsh redeems it, together with its audit event, and returns what
// the browser does next. by is the proxy, and from the browser's address. It refuses a proof of another user
// with fault Internal, although Prove never sends one: a mistake in this package must not let one user's code
// log in another.
func (s *Service) storeLogin(
	ctx context.Context, by identity.Identity, from netip.Addr, attempt identifiedAttempt, proof factor.Proof,
) (res authrpc.ProveFactorResponse, err error) {
	if proof.Who() != attempt.User.UserKey() || proof.Method() == "" {
		return res, secondFactorOfOtherUser.New(opProve)
	}
	who, err := s.assuredIdentity(ctx, by, attempt, proof)
	if err != nil {
		return res, err
	}
	now := s.cfg.Now().UTC()
	said := audit.Login{Factor: who.Factor, Host: attempt.Client.Host.Name}
	if handle := attempt.Client.Headless; handle != nil {
		said.Headless = handle.From.String()
	}
	succeeded := audit.New(now, who, said).Via(by.Name, from)
	pending := state.PendingLogin{
		Who:       who,
		Mapped:    attempt.User.Roles,
		Proxy:     by,
		From:      from,
		Host:      attempt.Client.Host,
		Challenge: attempt.Client.Challenge,
		AuthTime:  now,
		Expires:   now.Add(CodeLife),

		ConnectorRevision: attempt.ConnectorRevision,
	}
	res = authrpc.ProveFactorResponse{
		Name:          who.Name,
		RecoveryCodes: proof.RecoveryCodes(),
		Headless:      attempt.Client.headlessPrompt(),
	}
	if attempt.Client.Headless != nil {
		pending.MaxTTL = HeadlessLife
		return res, s.storeHeadless(ctx, attempt, pending, succeeded)
	}
	code, hash := newOneTimeCode()
	if len(res.RecoveryCodes) > 0 {
		pending.Expires = now.Add(FirstCodeLife) // the user writes them down before the browser goes on
	}
	params := url.Values{"code": {code}, "state": {attempt.Client.State}}
	res.Redirect = attempt.Client.Callback + "?" + params.Encode()
	return res, s.cfg.Logins.AddLogin(ctx, hash, pending, attempt.stored, succeeded)
}

// assuredIdentity returns the identity that the certificates of the finished login will contain: the user
// with the second factor, the proxy by, all their roles, and for a headless login the network to which it is
// pinned. An identity that does not fit into a certificate is refused here with fault Exhausted, while the
// user still looks at the page, and not when tsh redeems the login.
func (s *Service) assuredIdentity(
	ctx context.Context, by identity.Identity, attempt identifiedAttempt, proof factor.Proof,
) (who identity.Identity, err error) {
	who = attempt.User
	who.Factor, who.FactorTime = proof.Method(), s.cfg.Now().UTC().Truncate(time.Second)
	who.Proxy = by.ID
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
