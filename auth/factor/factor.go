// Package factor answers: has the user proved a second factor?
//
// Each kind of factor is a Method, which makes challenges and judges answers: auth/totp is one. Service does
// what all kinds have in common. It stores the factors, uses up each accepted answer by compare-and-set in
// the store, so that no replica accepts it again, and counts wrong answers. These lock out the user for
// doubling times, also across restarts, and the address from which they come. Ten recovery codes, each valid
// once, replace a lost device. Proof is the evidence of a correct answer: only Verify makes one.
//
// Verify is called for users whom a provider has identified. A user without a factor gets the same refusal as
// one who gave a wrong answer, after the same work.
package factor

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

const opVerify = "factor.Verify"

// Store keeps second factors. PutFactors is a compare-and-set: it writes next and the events only if the
// factors are still those that were read as old, and otherwise returns fault Conflict. state.Factors
// implements it.
type Store interface {
	// Factors returns the factors of a user, and none for a user without a record.
	Factors(ctx context.Context, who identity.UserKey) (state.StoredFactors, error)
	PutFactors(
		ctx context.Context, old state.StoredFactors, next state.UserFactors, events ...audit.Event,
	) error
}

// Config is what the service needs.
type Config struct {
	Store   Store    // required
	Methods []Method // the first one is offered to users without a factor; required
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// Service makes challenges and verifies their answers. It is safe for concurrent use.
type Service struct {
	store          Store
	methods        []Method
	now            func() time.Time
	addressLockout addressLockout
}

// New makes a service.
func New(cfg Config) (*Service, error) {
	if cfg.Store == nil || len(cfg.Methods) == 0 {
		return nil, factorConfigIncomplete.New("factor.New")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{store: cfg.Store, methods: cfg.Methods, now: cfg.Now}, nil
}

// Challenges returns the challenges of a user, of which one must be answered: one for each kind of the user's
// factors, or an enrolment for a user without any. It stores nothing: Verify stores an enrolment with its
// first correct answer.
func (s *Service) Challenges(ctx context.Context, who identity.Identity) ([]Challenge, error) {
	stored, err := s.store.Factors(ctx, who.UserKey())
	if err != nil {
		return nil, err
	}
	if len(stored.List) == 0 {
		enrolment, err := s.methods[0].Enrol(who)
		return []Challenge{enrolment}, err
	}
	var out []Challenge
	for _, method := range s.methods {
		enrolled := ofKind(stored.List, method.Kind())
		if len(enrolled) == 0 {
			continue
		}
		challenge, err := method.Challenge(who, enrolled)
		if err != nil {
			return nil, err
		}
		out = append(out, challenge)
	}
	if len(out) == 0 { // a newer release has enrolled them
		return nil, secondFactorKindUnknown.New("factor.Challenges", fault.Args{"kind": stored.List[0].Kind})
	}
	return out, nil
}

// ofKind returns the factors of one kind.
func ofKind(list []state.Factor, kind string) []state.Factor {
	var out []state.Factor
	for _, f := range list {
		if f.Kind == kind {
			out = append(out, f)
		}
	}
	return out
}

// Answer is a response with the user who gave it, and the challenges that it may answer.
type Answer struct {
	Who        identity.Identity // the user whom the provider identified
	Challenges []Challenge       // what Challenges returned for this login
	Response   Response
	From       netip.Addr // the browser's address, for the lockout and the audit log
	Proxy      string     // the name of the proxy that serves the login
}

// Proof is a user who gave a correct answer. Only Verify makes one; the zero value proves nothing.
type Proof struct {
	who           identity.UserKey
	method        string
	recoveryCodes []string
}

// Who is the user.
func (p Proof) Who() identity.UserKey { return p.who }

// Method is the kind of the factor, or Recovery. It becomes identity.Identity.Factor.
func (p Proof) Method() string { return p.method }

// RecoveryCodes are the new recovery codes after an enrolment, and nil otherwise. They are shown once and
// stored only as hashes.
func (p Proof) RecoveryCodes() []string { return p.recoveryCodes }

// maxTries is how often Verify tries to judge one answer. Another try is due only after a conflict, and the
// browsers of one user cannot cause that many.
const maxTries = 32

// Verify judges a response and uses it up, so that no replica accepts it again. It returns the proof that the
// user has the second factor. At an enrolment, a correct answer also stores the new factor.
//
// The errors have a remedy for the user. fault Invalid: the response has not the form of an answer. Denied:
// it is wrong, or was used. Exhausted: the user or the address is locked out. Expired: the user enrolled in
// another login meanwhile. Verify stores the audit events of the answers that it judges.
func (s *Service) Verify(ctx context.Context, a Answer) (Proof, error) {
	j, err := s.judgeOf(a)
	if err != nil {
		return Proof{}, err
	}
	if wait := s.addressLockout.lockedFor(a.From, s.now()); wait > 0 {
		return Proof{}, lockedFault(wait, secondFactorAddressLocked)
	}
	// Of several concurrent calls for one user, one writes first. The others get a conflict and try again
	// with the factors as they are then: they see the answer used, or the wrong ones counted.
	for range maxTries {
		proof, err := s.tryVerify(ctx, a, j)
		if !fault.Is(err, fault.Conflict) {
			return proof, err
		}
	}
	return Proof{}, secondFactorBusy.New(opVerify)
}

// judge is what judges the response: a method, or the recovery codes.
type judge struct {
	method    Method
	challenge Challenge
	recovery  recoveryCode // "" unless the response is one
}

// judgeOf returns what judges the response: the method of the challenge that it answers. A recovery code is
// none of a method, and it cannot confirm an enrolment. A response to a challenge that this login does not
// have gets fault Invalid.
func (s *Service) judgeOf(a Answer) (judge, error) {
	for _, challenge := range a.Challenges {
		if challenge.Kind != a.Response.Kind {
			continue
		}
		for _, method := range s.methods {
			if method.Kind() == challenge.Kind {
				return judge{method, challenge, parseRecoveryCode(a.Response.Body)}, nil
			}
		}
	}
	return judge{}, secondFactorKindUnknown.New(opVerify, fault.Args{"kind": truncateKind(a.Response.Kind)})
}

// truncateKind shortens what a browser sent in the place of a kind.
func truncateKind(kind string) string { return audit.Truncate(kind[:min(len(kind), 32)]) }

// tryVerify runs Verify once: it reads the user's factors, judges the response by them, and stores
// them if it changed them. If another call wrote them between the read and the write, nothing is stored and
// the error is fault Conflict: Verify then calls it again.
func (s *Service) tryVerify(ctx context.Context, a Answer, j judge) (Proof, error) {
	stored, err := s.store.Factors(ctx, a.Who.UserKey())
	if err != nil {
		return Proof{}, err
	}
	now := s.now()
	// During a lockout nothing is judged, not even a correct answer: otherwise guessing could go on.
	if wait := stored.LockedUntil.Sub(now); wait > 0 {
		return Proof{}, lockedFault(wait, secondFactorLocked)
	}
	// Two logins may have offered an enrolment at the same time. The first to confirm it wins: a later one
	// must not replace a factor without an answer to that factor.
	if j.challenge.Enrol && len(stored.List) > 0 {
		return Proof{}, secondFactorEnrolledElsewhere.New(opVerify)
	}
	judged, err := j.judge(stored.UserFactors, a, now)
	if err != nil {
		return Proof{}, err
	}
	if judged.mustStore {
		// First stored, then returned: an accepted answer must be used up, and a wrong one counted, before
		// the caller learns anything. PutFactors writes only if the factors are still the stored ones.
		err := s.store.PutFactors(ctx, stored, judged.next, auditEvents(a, judged, now)...)
		if err != nil {
			return Proof{}, err
		}
	}
	if judged.refusal != nil {
		if judged.verdict == Wrong {
			s.addressLockout.recordWrongAnswer(a.From, now)
		}
		return Proof{}, judged.refusal
	}
	return Proof{who: a.Who.UserKey(), method: judged.method, recoveryCodes: judged.newRecoveryCodes}, nil
}

// outcome is what judge decides: what to store, and what to answer.
type outcome struct {
	verdict   Verdict
	next      state.UserFactors // after this answer
	mustStore bool              // next differs from what is stored in a way that must be kept
	enrolled  bool              // next has a new factor
	// Of an accepted answer: the method, and at an enrolment the recovery codes to show.
	method           string
	newRecoveryCodes []string
	refusal          error // for the user; nil if the answer was accepted
}

// judge judges the response by the user's factors. It reads and writes nothing outside its arguments, except
// that it draws the recovery codes of an enrolment. The error is fault Invalid for a response that has not
// the form of an answer: it is not a guess, so it does not count towards the lockout.
func (j judge) judge(stored state.UserFactors, a Answer, now time.Time) (outcome, error) {
	if j.recovery != "" {
		return j.judgeRecovery(stored, a.Who.UserKey(), now), nil
	}
	judged, err := j.method.Judge(JudgeRequest{
		Who:       a.Who,
		Challenge: j.challenge,
		Enrolled:  ofKind(stored.List, j.method.Kind()),
		Body:      a.Response.Body,
		Now:       now,
	})
	if err != nil {
		return outcome{}, err
	}
	switch judged.Verdict {
	case Accepted:
		return j.accept(stored, judged.Factor, a, now), nil
	case Reused:
		next := stored
		next.List = replaceFactor(stored.List, judged.Factor)
		return outcome{verdict: Reused, next: next, mustStore: judged.Changed, refusal: judged.Refusal}, nil
	}
	return refuseWrong(stored, judged.Refusal, now), nil
}

// judgeRecovery accepts a recovery code that the user has, and removes it. A recovery code replaces a device
// that was enrolled, so it cannot confirm an enrolment.
func (j judge) judgeRecovery(stored state.UserFactors, who identity.UserKey, now time.Time) outcome {
	at, found := findRecoveryCode(stored.Recovery, who, j.recovery)
	if !found || j.challenge.Enrol || len(stored.List) == 0 {
		return refuseWrong(stored, recoveryCodeWrong.New(opVerify), now)
	}
	next := resetWrongAnswers(stored)
	next.Recovery = slices.Concat(stored.Recovery[:at], stored.Recovery[at+1:])
	return outcome{verdict: Accepted, next: next, mustStore: true, method: Recovery}
}

// accept stores the factor of an accepted answer. At an enrolment it is new, and all recovery codes with it.
func (j judge) accept(stored state.UserFactors, f state.Factor, a Answer, now time.Time) outcome {
	accepted := outcome{
		verdict:   Accepted,
		next:      resetWrongAnswers(stored),
		mustStore: true,
		method:    j.method.Kind(),
	}
	if !j.challenge.Enrol {
		accepted.next.List = replaceFactor(stored.List, f)
		return accepted
	}
	f.ID, f.Kind, f.Enrolled, f.Proxy = state.NewID(), j.method.Kind(), now.UTC(), a.Proxy
	accepted.enrolled = true
	accepted.next.List = append(slices.Clone(stored.List), f)
	accepted.newRecoveryCodes, accepted.next.Recovery = newRecoveryCodes(a.Who.UserKey())
	return accepted
}

// replaceFactor returns the list with f in the place of the factor with its id.
func replaceFactor(list []state.Factor, f state.Factor) []state.Factor {
	out := slices.Clone(list)
	for i := range out {
		if out[i].ID == f.ID {
			out[i] = f
		}
	}
	return out
}

// auditEvents returns the audit events that are stored together with the outcome: for a wrong answer the
// refusal, and the lockout if there is one now; for a reused one the refusal; for an accepted one the
// enrolment or the use of a recovery code. Any other accepted answer makes none here: the login that it
// finishes has an event of its own.
func auditEvents(a Answer, judged outcome, now time.Time) []audit.Event {
	event := func(body audit.Body) audit.Event { return audit.New(now, a.Who, body).Via(a.Proxy, a.From) }
	switch {
	case judged.verdict == Wrong:
		events := []audit.Event{event(audit.LoginRefusal{Reason: "wrong code"})}
		if !judged.next.LockedUntil.IsZero() {
			events = append(events, event(audit.FactorLockout{Until: judged.next.LockedUntil.UTC()}))
		}
		return events
	case judged.verdict == Reused:
		return []audit.Event{event(audit.LoginRefusal{Reason: "a code that was used already"})}
	case judged.enrolled:
		return []audit.Event{event(audit.FactorEnrolment{Factor: judged.method})}
	case judged.method == Recovery:
		return []audit.Event{event(audit.RecoveryUse{})}
	}
	return nil
}
