package totp

import (
	"crypto/subtle"
	"fmt"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/fault"
)

const opVerify = "totp.Verify"

const (
	period = 30 // seconds a step lasts
	drift  = 1  // steps a device's clock may be off, either way
)

// Lock-out: after freeAttempts wrong codes in a row every further one costs a pause, which doubles.
const (
	freeAttempts = 5
	firstLockout = 30 * time.Second
	maxLockout   = time.Hour
)

// dummySecret is checked for people who have none, so that they cost the same work. Nobody holds it, and a
// match counts as none.
const dummySecret = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

type result int

const (
	codeWrong result = iota
	codeReused
	codeAccepted
)

// outcome is what a code comes to: what is to be stored, and what to say.
type outcome struct {
	result   result
	next     state.Factor
	changed  bool // next must be stored
	method   string
	recovery []string // fresh codes to show
	err      error
}

// checkCode decides on a code. It is a pure function but for the recovery codes it draws at an enrolment.
func checkCode(have state.Factor, a Answer, code parsedCode, now time.Time) outcome {
	secret := have.Secret
	if a.Enrolment != nil {
		secret = a.Enrolment.Secret
	}
	at, matched := matchStep(secret, code, now)
	spare, isSpare := findRecoveryCode(have.Recovery, a.Who.UserKey(), code)
	switch {
	case isSpare && a.Enrolment == nil && have.Secret != "":
		next := clearLockout(have)
		next.Recovery = append(append([][]byte(nil), have.Recovery[:spare]...), have.Recovery[spare+1:]...)
		return outcome{result: codeAccepted, next: next, changed: true, method: MethodRecovery}
	case matched && at > have.LastStep:
		return accept(have, a, at, now)
	case matched:
		return refuseReused(have, at)
	}
	return refuseWrong(have, now)
}

func accept(have state.Factor, a Answer, at int64, now time.Time) outcome {
	j := outcome{result: codeAccepted, next: clearLockout(have), changed: true, method: MethodTOTP}
	j.next.LastStep = at
	if a.Enrolment != nil { // whatever recovery codes there were die here
		j.next.Secret, j.next.Enrolled, j.next.Proxy = a.Enrolment.Secret, now.UTC(), a.Proxy
		j.recovery, j.next.Recovery = newRecoveryCodes(a.Who.UserKey())
	}
	return j
}

func clearLockout(have state.Factor) state.Factor {
	have.WrongCodes, have.LockedUntil = 0, time.Time{}
	return have
}

// refuseReused: a used code is no guess, so it does not count towards the lock-out. The first time is noted,
// and so audited.
func refuseReused(have state.Factor, at int64) outcome {
	j := outcome{result: codeReused, next: have, changed: at > have.ReusedStep,
		err: fault.New(
			fault.Denied,
			opVerify,
			"this code was used already",
			"wait for the next code, then enter it",
		)}
	j.next.ReusedStep = max(at, have.ReusedStep)
	return j
}

func refuseWrong(have state.Factor, now time.Time) outcome {
	j := outcome{result: codeWrong, next: have, changed: true}
	j.next.WrongCodes++
	j.next.LockedUntil = time.Time{}
	pause := lockoutAfter(j.next.WrongCodes)
	if pause == 0 {
		j.err = fault.New(
			fault.Denied,
			opVerify,
			"this code is wrong",
			"enter the code that the app shows now; if that is wrong too, set the phone's clock to automatic",
		)
		return j
	}
	j.next.LockedUntil = now.Add(pause).UTC()
	j.err = lockedFault(pause, "this code is wrong, and so were several before it")
	return j
}

func lockoutAfter(n int) time.Duration {
	over := n - freeAttempts
	switch {
	case over < 0:
		return 0
	case over > 10: // 2^10 × 30 s is far beyond the cap
		return maxLockout
	}
	return min(firstLockout<<over, maxLockout)
}

func lockedFault(wait time.Duration, why string) error {
	return fault.New(fault.Exhausted, opVerify, why, "try again in "+formatWait(wait))
}

// formatWait says a pause as people do: "30s", "2m", "1h".
func formatWait(d time.Duration) string {
	switch {
	case d <= time.Minute-time.Second:
		return fmt.Sprintf("%ds", int((d+time.Second-1)/time.Second))
	case d <= time.Hour-time.Minute:
		return fmt.Sprintf("%dm", int((d+time.Minute-1)/time.Minute))
	}
	return "1h"
}

// matchStep returns the newest step around now whose code it is. Every step is computed and compared,
// whichever one matches.
func matchStep(secret string, c parsedCode, now time.Time) (step int64, ok bool) {
	real := secret != ""
	if !real {
		secret = dummySecret
	}
	middle := now.Unix() / period
	for at := middle - drift; at <= middle+drift; at++ {
		want, err := hotp.GenerateCodeCustom(
			secret,
			uint64(at),
			hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1},
		)
		if err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(c.totp)) == 1 {
			step, ok = at, real
		}
	}
	return step, ok
}
