package totp

import (
	"crypto/subtle"
	"fmt"
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

// The lockout of a user: after freeAttempts wrong codes in a row every further one costs a wait, which begins
// at firstLockout and doubles up to maxLockout.
const (
	freeAttempts = 5
	firstLockout = 30 * time.Second
	maxLockout   = time.Hour
)

// dummySecret is checked for users without a secret, so that the answer takes as long as for others. A code
// that matches it counts as wrong.
const dummySecret = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// result says how a code was judged.
type result int

const (
	codeWrong result = iota
	codeReused
	codeAccepted
)

// outcome is what checkCode decides: what to store, and what to answer.
type outcome struct {
	result   result
	next     state.Factor
	mustStore  bool     // next must be stored
	method   string   // of an accepted code
	newRecoveryCodes []string // new recovery codes to show, after an enrolment
	refusal      error    // of a refused code
}

// checkCode decides about a code. It is a pure function, except that it draws the recovery codes of an
// enrolment.
func checkCode(have state.Factor, a Answer, code parsedCode, now time.Time) outcome {
	secret := have.Secret
	if a.Enrolment != nil {
		secret = a.Enrolment.Secret
	}
	step, matched := matchStep(secret, code, now)
	at, isRecovery := findRecoveryCode(have.Recovery, a.Who.UserKey(), code)
	switch {
	case isRecovery && a.Enrolment == nil && have.Secret != "":
		next := clearLockout(have)
		next.Recovery = slices.Concat(have.Recovery[:at], have.Recovery[at+1:])
		return outcome{result: codeAccepted, next: next, mustStore: true, method: MethodRecovery}
	case matched && step > have.LastStep:
		return acceptCode(have, a, step, now)
	case matched:
		return refuseReusedCode(have, step)
	}
	return refuseWrongCode(have, now)
}

// acceptCode uses up the step, and with it all earlier ones. At an enrolment it also stores the secret and
// replaces all recovery codes.
func acceptCode(have state.Factor, a Answer, step int64, now time.Time) outcome {
	o := outcome{result: codeAccepted, next: clearLockout(have), mustStore: true, method: MethodTOTP}
	o.next.LastStep = step
	if a.Enrolment != nil {
		o.next.Secret, o.next.Enrolled, o.next.Proxy = a.Enrolment.Secret, now.UTC(), a.Proxy
		o.newRecoveryCodes, o.next.Recovery = newRecoveryCodes(a.Who.UserKey())
	}
	return o
}

// clearLockout is have after a correct code: the wrong codes before it no longer count.
func clearLockout(have state.Factor) state.Factor {
	have.WrongCodes, have.LockedUntil = 0, time.Time{}
	return have
}

// refuseReusedCode refuses a code that was used. It is not a guess, so it does not count towards the lockout.
// Only the first reuse of a step is stored, and so makes only one audit event.
func refuseReusedCode(have state.Factor, step int64) outcome {
	o := outcome{result: codeReused, next: have, mustStore: step > have.ReusedStep}
	o.next.ReusedStep = max(step, have.ReusedStep)
	o.refusal = fault.New(fault.Denied, opVerify, "this code was used already",
		"wait for the next code, then enter it")
	return o
}

// refuseWrongCode counts a wrong code, and locks the user out if there were several in a row.
func refuseWrongCode(have state.Factor, now time.Time) outcome {
	o := outcome{result: codeWrong, next: have, mustStore: true}
	o.next.WrongCodes++
	o.next.LockedUntil = time.Time{}
	wait := lockoutAfter(o.next.WrongCodes)
	if wait == 0 {
		o.refusal = fault.New(fault.Denied, opVerify, "this code is wrong",
			"enter the code that the app shows now; if that is wrong too, set the phone's clock to automatic")
		return o
	}
	o.next.LockedUntil = now.Add(wait).UTC()
	o.refusal = lockedFault(wait, "this code is wrong, and so were several before it")
	return o
}

// lockoutAfter is how long a user or address waits after n wrong codes in a row.
func lockoutAfter(n int) time.Duration {
	over := n - freeAttempts
	switch {
	case over < 0:
		return 0
	case over > 10: // 2^10 × 30 s is more than maxLockout; a larger shift could overflow
		return maxLockout
	}
	return min(firstLockout<<over, maxLockout)
}

// lockedFault is the error during a lockout.
func lockedFault(wait time.Duration, why string) error {
	return fault.New(fault.Exhausted, opVerify, why, "try again in "+formatWait(wait))
}

// formatWait rounds a wait up to one unit: "30s", "2m" or "1h".
func formatWait(d time.Duration) string {
	switch {
	case d <= time.Minute-time.Second:
		return fmt.Sprintf("%ds", int((d+time.Second-1)/time.Second))
	case d <= time.Hour-time.Minute:
		return fmt.Sprintf("%dm", int((d+time.Minute-1)/time.Minute))
	}
	return "1h"
}

// matchStep returns the newest step around now whose code c is. It computes and compares every step,
// whichever one matches, so that the time it takes says nothing.
func matchStep(secret string, c parsedCode, now time.Time) (step int64, ok bool) {
	enrolled := secret != ""
	if !enrolled {
		secret = dummySecret
	}
	opts := hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1}
	current := now.Unix() / period
	for at := current - drift; at <= current+drift; at++ {
		want, err := hotp.GenerateCodeCustom(secret, uint64(at), opts)
		if err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(c.totp)) == 1 {
			step, ok = at, enrolled
		}
	}
	return step, ok
}
