package totp

import (
	"crypto/subtle"
	"slices"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/fault"
)

const opVerify = "totp.Verify"

const (
	period = 30 // seconds of one step
	drift  = 1  // steps that a device's clock may be off, either way
)

// The lockout of a user: the wrong code number freeAttempts in a row locks the user out for firstLockout.
// Each further one does so for twice as long as the one before, up to maxLockout.
const (
	freeAttempts = 5
	firstLockout = 30 * time.Second
	maxLockout   = time.Hour
)

// dummySecret is checked for users without a secret, so that the answer takes as long as for others. A code
// that matches it counts as wrong.
const dummySecret = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// verdict says how a code was judged.
type verdict int

const (
	codeWrong verdict = iota
	codeReused
	codeAccepted
)

// outcome is what checkCode decides: what to store, and what to answer.
type outcome struct {
	verdict   verdict
	next      state.Factor // the factor after this code
	mustStore bool         // next differs from the stored factor in a way that must be kept
	// Of an accepted code: MethodTOTP or MethodRecovery, and at an enrolment the recovery codes to show.
	method           string
	newRecoveryCodes []string
	// refusal is the error for the user; nil if the code was accepted.
	refusal error
}

// checkCode judges a code by the user's factor, or at an enrolment by the secret that the login offered. It
// reads and writes nothing outside its arguments, except that it draws the recovery codes of an enrolment.
func checkCode(factor state.Factor, answer Answer, code parsedCode, now time.Time) outcome {
	secret := factor.Secret
	if answer.Enrolment != nil {
		secret = answer.Enrolment.Secret
	}
	// Both comparisons are always made, so that the time does not say which of them matched.
	step, matched := matchStep(secret, code, now)
	at, isRecovery := findRecoveryCode(factor.Recovery, answer.Who.UserKey(), code)
	switch {
	// A recovery code replaces a device that was enrolled. It cannot confirm an enrolment.
	case isRecovery && answer.Enrolment == nil && factor.Secret != "":
		next := resetWrongCodes(factor)
		next.Recovery = slices.Concat(factor.Recovery[:at], factor.Recovery[at+1:])
		return outcome{verdict: codeAccepted, next: next, mustStore: true, method: MethodRecovery}
	case matched && step > factor.LastStep:
		return acceptCode(factor, answer, step, now)
	case matched:
		return refuseReusedCode(factor, step)
	}
	return refuseWrongCode(factor, now)
}

// acceptCode accepts a TOTP code of the step. The step is used up with it, and all earlier ones, so that an
// observed older code does not work either. At an enrolment it also sets the secret and replaces all recovery
// codes.
func acceptCode(factor state.Factor, answer Answer, step int64, now time.Time) outcome {
	accepted := outcome{
		verdict:   codeAccepted,
		next:      resetWrongCodes(factor),
		mustStore: true,
		method:    MethodTOTP,
	}
	next := &accepted.next
	next.LastStep = step
	if answer.Enrolment != nil {
		next.Secret, next.Enrolled, next.Proxy = answer.Enrolment.Secret, now.UTC(), answer.Proxy
		accepted.newRecoveryCodes, next.Recovery = newRecoveryCodes(answer.Who.UserKey())
	}
	return accepted
}

// resetWrongCodes returns the factor after a correct code: the wrong codes before that no longer count.
func resetWrongCodes(factor state.Factor) state.Factor {
	factor.WrongCodes, factor.LockedUntil = 0, time.Time{}
	return factor
}

// refuseReusedCode refuses a correct code whose step is used up. It is not a guess, so it does not count
// towards the lockout. Only the first reuse of a step is stored: repeating it cannot fill the audit log.
func refuseReusedCode(factor state.Factor, step int64) outcome {
	refused := outcome{verdict: codeReused, next: factor, mustStore: step > factor.ReusedStep}
	refused.next.ReusedStep = max(step, factor.ReusedStep)
	refused.refusal = secondFactorUsed.New(opVerify)
	return refused
}

// refuseWrongCode refuses a wrong code and counts it. The last free wrong code and every one after it lock
// the user out, each for longer (lockoutAfter).
func refuseWrongCode(factor state.Factor, now time.Time) outcome {
	refused := outcome{verdict: codeWrong, next: factor, mustStore: true}
	refused.next.WrongCodes++
	refused.next.LockedUntil = time.Time{} // the lockout before, if there was one, is over
	wait := lockoutAfter(refused.next.WrongCodes)
	if wait == 0 {
		refused.refusal = secondFactorWrong.New(opVerify)
		return refused
	}
	refused.next.LockedUntil = now.Add(wait).UTC()
	refused.refusal = lockedFault(wait, secondFactorWrongAgain)
	return refused
}

// lockoutAfter returns how long a user waits after n wrong codes in a row: nothing before freeAttempts, then
// firstLockout, and twice as long for each further one, up to maxLockout.
func lockoutAfter(n int) time.Duration {
	doublings := n - freeAttempts
	switch {
	case doublings < 0:
		return 0
	case doublings > 10: // 2^10 × 30 s is more than maxLockout; a larger shift could overflow
		return maxLockout
	}
	return min(firstLockout<<doublings, maxLockout)
}

// lockedFault is the error during a lockout, for a user or an address. Its remedy says how long it lasts.
func lockedFault(wait time.Duration, code fault.Code) error {
	return code.New(opVerify, fault.Args{fault.ArgRetryAfter: roundWait(wait)})
}

// roundWait rounds a wait up to whole seconds, minutes or hours.
func roundWait(d time.Duration) time.Duration {
	for _, unit := range []time.Duration{time.Second, time.Minute} {
		if d <= 59*unit {
			return (d + unit - 1).Truncate(unit)
		}
	}
	return time.Hour
}

// matchStep returns the newest step of 30 seconds whose code was entered, among the current one and drift
// steps around it. It reports false for a wrong code, a recovery code, and a user without a secret. It
// computes and compares every step, whichever one matches, so that the time it takes says nothing.
func matchStep(secret string, code parsedCode, now time.Time) (step int64, ok bool) {
	enrolled := secret != ""
	if !enrolled {
		secret = dummySecret
	}
	opts := hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1}
	current := now.Unix() / period
	for at := current - drift; at <= current+drift; at++ {
		want, err := hotp.GenerateCodeCustom(secret, uint64(at), opts)
		if err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(code.totp)) == 1 {
			step, ok = at, enrolled
		}
	}
	return step, ok
}
