// Package totp answers: is the code right, and unused?
//
// Codes are those of RFC 6238 with SHA-1, six digits and steps of 30 seconds. The code of one step before or
// after the current one is accepted too. A step is used up once, by compare-and-set in the store, and with it
// all earlier steps: no replica accepts a code again. Wrong codes lock out the user for doubling times, also
// across restarts, and the address from which they come. Ten recovery codes, each valid once, replace a lost
// device. Proof is the evidence of a correct code: only Verify makes one.
//
// Verify is called for users whom a provider has identified. A user without a factor gets the same answer as
// one who entered a wrong code, after the same work.
package totp

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// The method of a Proof becomes identity.Identity.Factor.
const (
	MethodTOTP     = "totp"
	MethodRecovery = "recovery"
)

// Store keeps second factors. PutFactor returns fault Conflict when the factor was written since it was read.
// state.Factors implements it.
type Store interface {
	Factor(ctx context.Context, who identity.UserKey) (state.StoredFactor, error)
	PutFactor(ctx context.Context, old state.StoredFactor, f state.Factor, events ...audit.Event) error
}

// Config is what the service needs.
type Config struct {
	// Store keeps the factors. Required.
	Store Store
	// Issuer is what an authenticator app shows beside the user's name: the name of the cluster. Required.
	Issuer string
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// Service checks codes. It is safe for concurrent use.
type Service struct {
	store     Store
	issuer    string
	now       func() time.Time
	addressLockout addressLockout
}

// New makes a service.
func New(cfg Config) (*Service, error) {
	if cfg.Store == nil || cfg.Issuer == "" {
		return nil, fault.New(fault.Internal, "totp.New", "the configuration has no store or no issuer",
			"report this: it is a defect")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{store: cfg.Store, issuer: cfg.Issuer, now: cfg.Now}, nil
}

// Answer is a code with the user who entered it.
type Answer struct {
	Who   identity.Identity // the user whom the provider identified
	Code  string            // as typed
	From  string            // the browser's address, for the lockout and the audit log
	Proxy string            // the name of the proxy that serves the login
	// Enrolment is the enrolment that this login offered to the user; nil if it offered none.
	Enrolment *Enrolment
}

// Proof is a user who entered a correct code. Only Verify makes one; the zero value proves nothing.
type Proof struct {
	who      identity.UserKey
	method   string
	recovery []string
}

// Who is the user.
func (p Proof) Who() identity.UserKey { return p.who }

// Method is MethodTOTP or MethodRecovery.
func (p Proof) Method() string { return p.method }

// RecoveryCodes are the new recovery codes after an enrolment. They are shown once and stored only as hashes.
func (p Proof) RecoveryCodes() []string { return p.recovery }

// maxConflicts is how often Verify tries again after a conflict. It is more than the browsers of one user can
// cause.
const maxConflicts = 32

// Verify checks a code and uses it up.
func (s *Service) Verify(ctx context.Context, a Answer) (Proof, error) {
	code, err := parseCode(a.Code)
	if err != nil {
		return Proof{}, err
	}
	if wait := s.addressLockout.lockedFor(a.From, s.now()); wait > 0 {
		return Proof{}, lockedFault(wait, "too many wrong codes came from this address")
	}
	// Of several concurrent calls with the same code, one writes first. The others get a conflict, read again
	// and find the step used.
	for range maxConflicts {
		proof, err := s.tryVerify(ctx, a, code)
		if !fault.Is(err, fault.Conflict) {
			return proof, err
		}
	}
	return Proof{}, fault.New(fault.Unavailable, opVerify,
		"too many codes of this user are being checked at once",
		"wait for the next code, then try again")
}

// tryVerify checks a code once. It returns fault Conflict if another call changed the factor in between.
func (s *Service) tryVerify(ctx context.Context, a Answer, code parsedCode) (Proof, error) {
	have, err := s.store.Factor(ctx, a.Who.UserKey())
	if err != nil {
		return Proof{}, err
	}
	now := s.now()
	if wait := have.LockedUntil.Sub(now); wait > 0 {
		return Proof{}, lockedFault(wait, "too many wrong codes were entered")
	}
	if a.Enrolment != nil && have.Secret != "" {
		return Proof{}, fault.New(fault.Expired, opVerify,
			"a second factor was already enrolled in another login",
			"start again: tsh login, and use the app that was enrolled there")
	}
	o := checkCode(have.Factor, a, code, now)
	if o.mustStore {
		if err := s.store.PutFactor(ctx, have, o.next, auditEvents(a, o, now)...); err != nil {
			return Proof{}, err
		}
	}
	if o.refusal != nil {
		if o.result == codeWrong {
			s.addressLockout.recordWrongCode(a.From, now)
		}
		return Proof{}, o.refusal
	}
	return Proof{who: a.Who.UserKey(), method: o.method, recovery: o.newRecoveryCodes}, nil
}

// auditEvents are the audit events that are stored together with the outcome.
func auditEvents(a Answer, o outcome, now time.Time) []audit.Event {
	event := func(code audit.Code, reason string) audit.Event {
		e := audit.NewEvent(code, a.Who, now)
		e.ID, e.From, e.Proxy, e.Reason = state.NewID(), a.From, a.Proxy, reason
		return e
	}
	var out []audit.Event
	switch {
	case o.result == codeWrong:
		out = append(out, event(audit.LoginRefused, "wrong code"))
		if !o.next.LockedUntil.IsZero() {
			until := o.next.LockedUntil.UTC().Format(time.RFC3339)
			out = append(out, event(audit.FactorLocked, "locked until "+until))
		}
	case o.result == codeReused:
		out = append(out, event(audit.LoginRefused, "a code that was used already"))
	case a.Enrolment != nil:
		out = append(out, event(audit.FactorEnrolled, "totp"))
	case o.method == MethodRecovery:
		out = append(out, event(audit.RecoveryUsed, ""))
	}
	return out
}
