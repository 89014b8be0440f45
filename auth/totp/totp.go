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

// Store keeps second factors. PutFactor is a compare-and-set: it writes next and the events only if the
// factor is still the one that was read as old, and otherwise returns fault Conflict. state.Factors
// implements it.
type Store interface {
	// Factor returns the factor of a user, and an empty one for a user without a record.
	Factor(ctx context.Context, who identity.UserKey) (state.StoredFactor, error)
	PutFactor(ctx context.Context, old state.StoredFactor, next state.Factor, events ...audit.Event) error
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
	store          Store
	issuer         string
	now            func() time.Time
	addressLockout addressLockout
}

// New makes a service.
func New(cfg Config) (*Service, error) {
	if cfg.Store == nil || cfg.Issuer == "" {
		return nil, totpConfigIncomplete.New("totp.New")
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
	who           identity.UserKey
	method        string
	recoveryCodes []string
}

// Who is the user.
func (p Proof) Who() identity.UserKey { return p.who }

// Method is MethodTOTP or MethodRecovery.
func (p Proof) Method() string { return p.method }

// RecoveryCodes are the new recovery codes after an enrolment, and nil otherwise. They are shown once and
// stored only as hashes.
func (p Proof) RecoveryCodes() []string { return p.recoveryCodes }

// maxTries is how often Verify tries to judge one code. Another try is due only after a conflict, and the
// browsers of one user cannot cause that many.
const maxTries = 32

// Verify checks the code in the answer and uses it up, so that no replica accepts it again. It returns the
// proof that the user has the second factor. At an enrolment, a correct code also stores the secret.
//
// The errors have a remedy for the user. fault Invalid: the text has not the form of a code. Denied: the code
// is wrong, or was used. Exhausted: the user or the address is locked out. Expired: the user enrolled in
// another login meanwhile. Verify stores the audit events of the codes that it judges.
func (s *Service) Verify(ctx context.Context, answer Answer) (Proof, error) {
	code, err := parseCode(answer.Code)
	if err != nil {
		return Proof{}, err
	}
	if wait := s.addressLockout.lockedFor(answer.From, s.now()); wait > 0 {
		return Proof{}, lockedFault(wait, secondFactorAddressLocked)
	}
	// Of several concurrent calls for one user, one writes first. The others get a conflict and try again
	// with the factor as it is then: they see the code used, or the wrong codes counted.
	for range maxTries {
		proof, err := s.tryVerify(ctx, answer, code)
		if !fault.Is(err, fault.Conflict) {
			return proof, err
		}
	}
	return Proof{}, secondFactorBusy.New(opVerify)
}

// tryVerify makes one attempt of Verify: it reads the user's factor, judges the code by it, and stores the
// factor if the code changed it. If another call wrote the factor between the read and the write, nothing is
// stored and the error is fault Conflict: Verify then calls it again.
func (s *Service) tryVerify(ctx context.Context, answer Answer, code parsedCode) (Proof, error) {
	stored, err := s.store.Factor(ctx, answer.Who.UserKey())
	if err != nil {
		return Proof{}, err
	}
	now := s.now()
	// During a lockout no code is judged, not even a correct one: otherwise guessing could go on.
	if wait := stored.LockedUntil.Sub(now); wait > 0 {
		return Proof{}, lockedFault(wait, secondFactorLocked)
	}
	// Two logins may have offered an enrolment at the same time. The first to confirm it wins: a later one
	// must not replace a factor without a code of that factor.
	if answer.Enrolment != nil && stored.Secret != "" {
		return Proof{}, secondFactorEnrolledElsewhere.New(opVerify)
	}
	judged := checkCode(stored.Factor, answer, code, now)
	if judged.mustStore {
		// First stored, then returned: an accepted code must be used up, and a wrong one counted, before the
		// caller learns anything. PutFactor writes only if the factor is still the stored one.
		err := s.store.PutFactor(ctx, stored, judged.next, auditEvents(answer, judged, now)...)
		if err != nil {
			return Proof{}, err
		}
	}
	if judged.refusal != nil {
		if judged.verdict == codeWrong {
			s.addressLockout.recordWrongCode(answer.From, now)
		}
		return Proof{}, judged.refusal
	}
	return Proof{
		who:           answer.Who.UserKey(),
		method:        judged.method,
		recoveryCodes: judged.newRecoveryCodes,
	}, nil
}

// auditEvents returns the audit events that are stored together with the outcome: for a wrong code the
// refusal, and the lockout if there is one now; for a reused code the refusal; for an accepted one the
// enrolment or the use of a recovery code. An accepted TOTP code makes none here: the login that it finishes
// has an event of its own.
func auditEvents(answer Answer, judged outcome, now time.Time) []audit.Event {
	event := func(code audit.Code, reason string) audit.Event {
		e := audit.NewEvent(code, answer.Who, now)
		e.ID, e.From, e.Proxy, e.Reason = state.NewID(), answer.From, answer.Proxy, reason
		return e
	}
	switch {
	case judged.verdict == codeWrong:
		events := []audit.Event{event(audit.LoginRefused, "wrong code")}
		if !judged.next.LockedUntil.IsZero() {
			until := judged.next.LockedUntil.UTC().Format(time.RFC3339)
			events = append(events, event(audit.FactorLocked, "locked until "+until))
		}
		return events
	case judged.verdict == codeReused:
		return []audit.Event{event(audit.LoginRefused, "a code that was used already")}
	case answer.Enrolment != nil:
		return []audit.Event{event(audit.FactorEnrolled, "totp")}
	case judged.method == MethodRecovery:
		return []audit.Event{event(audit.RecoveryUsed, "")}
	}
	return nil
}
