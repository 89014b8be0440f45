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
	codeBytes    = 32  // random bytes in a one-time code
	codeLength   = 43  // of a one-time code as base64 text
	maxCodeBytes = 256 // what a user may type as the code of the second factor
)

// Prove checks the second factor, stores the finished login and returns the address at which tsh waits for
// its one-time code. After a wrong code the same attempt may be tried again until it expires.
func (s *Service) Prove(
	ctx context.Context, by identity.Identity, req authrpc.ProveFactorRequest,
) (authrpc.ProveFactorResponse, error) {
	i, err := s.openIdentified(by, req)
	if err != nil {
		s.refusals.record(prove, by, req.From, err)
		return authrpc.ProveFactorResponse{}, err
	}
	i.User.LoginID = identity.LoginID(state.NewID())
	proof, err := s.cfg.Factor.Verify(ctx, totp.Answer{
		Who:       i.User,
		Code:      req.Code,
		From:      req.From,
		Proxy:     by.Name,
		Enrolment: i.Enrolment,
	})
	if err != nil {
		return authrpc.ProveFactorResponse{}, err // the factor has recorded the refusal
	}
	res, err := s.finish(ctx, by, req.From, i, proof)
	if err != nil {
		return authrpc.ProveFactorResponse{}, s.recordRefusal(ctx, i.User, by, req.From, err)
	}
	return res, nil
}

// openIdentified opens the attempt of the page on which the code was entered.
func (s *Service) openIdentified(
	by identity.Identity, req authrpc.ProveFactorRequest,
) (i identifiedAttempt, err error) {
	if err := checkProxy(opProve, by); err != nil {
		return i, err
	}
	if len(req.From) > maxFrom || len(req.Code) > maxCodeBytes {
		return i, fault.New(fault.Invalid, opProve, "the code is too long",
			"enter the code that the app shows now")
	}
	return i, s.sealer.open(opProve, stageIdentified, req.Attempt, s.cfg.Now(), &i)
}

// finish stores the login under the hash of its one-time code. The proof must be that of the same user.
func (s *Service) finish(
	ctx context.Context, by identity.Identity, from string, i identifiedAttempt, proof totp.Proof,
) (res authrpc.ProveFactorResponse, err error) {
	if proof.Who() != i.User.UserKey() || proof.Method() == "" {
		return res, fault.New(fault.Internal, opProve, "the second factor belongs to another user",
			startAgain)
	}
	who, err := s.assuredIdentity(ctx, i, proof)
	if err != nil {
		return res, err
	}
	now := s.cfg.Now().UTC()
	e := audit.NewEvent(audit.LoginSucceeded, who, now)
	e.From, e.Proxy, e.Fields = from, by.Name, map[string]string{"factor": who.Factor}
	pending := state.PendingLogin{
		Who:       who,
		Mapped:    i.User.Roles,
		Proxy:     by,
		From:      from,
		Challenge: i.Client.Challenge,
		AuthTime:  now,
		Expires:   now.Add(CodeLife),
	}
	res = authrpc.ProveFactorResponse{Name: who.Name, RecoveryCodes: proof.RecoveryCodes()}
	if h := i.Client.Headless; h != nil {
		pending.MaxTTL = HeadlessLife
		e.Fields["headless"] = h.From.String()
		return res, s.storeHeadless(ctx, h, pending, e)
	}
	code, hash := newCode()
	if len(res.RecoveryCodes) > 0 {
		pending.Expires = now.Add(FirstCodeLife)
	}
	res.Redirect = i.Client.Callback + "?" + url.Values{"code": {code}, "state": {i.Client.State}}.Encode()
	return res, s.cfg.Logins.AddLogin(ctx, hash, pending, e)
}

// assuredIdentity is the identity that the certificates of the finished login will carry. One that does not
// fit into a certificate is refused here, while the user still looks at the page, and not when tsh redeems.
func (s *Service) assuredIdentity(
	ctx context.Context, i identifiedAttempt, proof totp.Proof,
) (who identity.Identity, err error) {
	who = i.User
	who.Factor = proof.Method()
	if who.Roles, err = s.roles(ctx, who); err != nil {
		return who, err
	}
	if h := i.Client.Headless; h != nil {
		who.SourceAddresses = []netip.Prefix{h.network()}
	}
	if _, err := who.Encode(); err != nil {
		return who, fault.Wrap(err, fault.Exhausted, opProve,
			"no certificate can carry this identity: "+err.Error(),
			"ask an administrator to map fewer roles and traits")
	}
	return who, nil
}

// roles are the roles of the connector and those that an administrator gave, sorted. A user without any role
// may log in, but is allowed nothing.
func (s *Service) roles(ctx context.Context, who identity.Identity) ([]string, error) {
	rec, err := s.cfg.Logins.User(ctx, who.UserKey())
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	roles := slices.Concat(who.Roles, rec.Value.Roles)
	slices.Sort(roles)
	return slices.Compact(roles), nil
}

// newCode draws a one-time code and returns it with its hash. Only the hash is stored.
func newCode() (string, state.CodeHash) {
	var b [codeBytes]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
	code := base64.RawURLEncoding.EncodeToString(b[:])
	return code, hashCode(code)
}

func hashCode(code string) state.CodeHash {
	return sha256.Sum256([]byte("threshold login code v1\x00" + code))
}
