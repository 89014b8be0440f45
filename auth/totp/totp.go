// Package totp answers: is the code right, and unused?
//
// Codes are those of RFC 6238 with SHA-1, six digits and steps of 30 s, one step of drift either way. A step
// is burned once, by compare-and-set in the store, and with it all steps before it: on whichever replica the
// code is shown again, it is refused. Wrong codes lock the person out for ever longer, also across restarts,
// and the address they came from. Ten recovery codes, each good once, stand in for a lost device. Proof is
// the evidence of a right code: only Prove makes one.
//
// Prove is called for people for whom a provider has vouched. It answers the same, after the same work,
// whether the code is wrong or nobody of that name has a factor.
package totp

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Method says by what a person proved the factor; it becomes identity.Identity.Factor.
const (
	MethodTOTP     = "totp"
	MethodRecovery = "recovery"
)

// Store keeps second factors. PutFactor is fault Conflict when the factor was written since it was read.
// state.Vault is one.
type Store interface {
	Factor(ctx context.Context, who identity.UserKey) (state.StoredFactor, error)
	PutFactor(ctx context.Context, old state.StoredFactor, f state.Factor, events ...audit.Event) error
}

// Config is what the factor needs.
type Config struct {
	// Store keeps the factors. Required.
	Store Store
	// Issuer is what an authenticator app shows beside the name: the cluster. Required.
	Issuer string
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// Service checks codes. It is safe for concurrent use.
type Service struct {
	store     Store
	issuer    string
	now       func() time.Time
	addresses addressLockout
}

// New makes a Service.
func New(cfg Config) (*Service, error) {
	if cfg.Store == nil || cfg.Issuer == "" {
		return nil, fault.New(
			fault.Internal,
			"totp.New",
			"there is no store or no issuer",
			"report this: it is a defect",
		)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{store: cfg.Store, issuer: cfg.Issuer, now: cfg.Now}, nil
}

// Answer is a code and who shows it.
type Answer struct {
	Who   identity.Identity // the person for whom the provider vouched
	Code  string            // as typed
	From  string            // the browser's address, for the lock-out and the audit log
	Proxy string            // it came by
	// Enrolment is the enrolment that was offered to this person in this login and waits to be confirmed;
	// nil: none was.
	Enrolment *Enrolment
}

// Proof is a person who showed a right code. Only Prove makes one; the zero value proves nothing.
type Proof struct {
	who      identity.UserKey
	method   string
	recovery []string
}

// Who is the person whose factor it was.
func (p Proof) Who() identity.UserKey { return p.who }

// Method is MethodTOTP or MethodRecovery.
func (p Proof) Method() string { return p.method }

// RecoveryCodes are shown once, after an enrolment.
func (p Proof) RecoveryCodes() []string { return p.recovery }

// Verify checks a code and uses it up.
func (s *Service) Verify(ctx context.Context, a Answer) (Proof, error) {
	code, err := parseCode(a.Code)
	if err != nil {
		return Proof{}, err
	}
	if wait := s.addresses.lockedFor(a.From, s.now()); wait > 0 {
		return Proof{}, lockedFault(wait, "too many wrong codes came from this address")
	}
	// Of those who show the same code at once one writes first; the others read again, and find the step
	// burned.
	for range maxConflicts {
		proof, err := s.verify(ctx, a, code)
		if !fault.Is(err, fault.Conflict) {
			return proof, err
		}
	}
	return Proof{}, fault.New(
		fault.Unavailable,
		opVerify,
		"too many codes of this user are being checked at once",
		"wait for the next code, then try again",
	)
}

// maxConflicts is more than a person's own browsers can cause.
const maxConflicts = 32

func (s *Service) verify(ctx context.Context, a Answer, code parsedCode) (Proof, error) {
	have, err := s.store.Factor(ctx, a.Who.UserKey())
	if err != nil {
		return Proof{}, err
	}
	now := s.now()
	if wait := have.LockedUntil.Sub(now); wait > 0 {
		return Proof{}, lockedFault(wait, "too many wrong codes were entered")
	}
	if a.Enrolment != nil && have.Secret != "" {
		return Proof{}, fault.New(
			fault.Expired,
			opVerify,
			"a second factor was already enrolled in another login",
			"start again: tsh login, and use the app that was enrolled there",
		)
	}
	j := checkCode(have.Factor, a, code, now)
	if j.changed {
		if err := s.store.PutFactor(ctx, have, j.next, events(a, j, now)...); err != nil {
			return Proof{}, err
		}
	}
	if j.err != nil {
		if j.result == codeWrong {
			s.addresses.recordWrong(a.From, now)
		}
		return Proof{}, j.err
	}
	return Proof{who: a.Who.UserKey(), method: j.method, recovery: j.recovery}, nil
}

// events are the audit events that are stored together with the judgement.
func events(a Answer, j outcome, now time.Time) []audit.Event {
	event := func(code audit.Code, reason string) audit.Event {
		e := audit.NewEvent(code, a.Who, now)
		e.ID, e.From, e.Proxy, e.Reason = state.NewID(), a.From, a.Proxy, reason
		return e
	}
	var out []audit.Event
	switch {
	case j.result == codeWrong:
		out = append(out, event(audit.LoginRefused, "wrong code"))
		if !j.next.LockedUntil.IsZero() {
			out = append(
				out,
				event(audit.FactorLocked, "locked until "+j.next.LockedUntil.UTC().Format(time.RFC3339)),
			)
		}
	case j.result == codeReused:
		out = append(out, event(audit.LoginRefused, "a code that was used already"))
	case a.Enrolment != nil:
		out = append(out, event(audit.FactorEnrolled, "totp"))
	case j.method == MethodRecovery:
		out = append(out, event(audit.RecoveryUsed, ""))
	}
	return out
}
