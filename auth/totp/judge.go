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

const opProve = "totp.Prove"

const (
	period = 30 // seconds a step lasts
	drift  = 1  // steps a device's clock may be off, either way
)

// Lock-out: after freeTries wrong codes in a row every further one costs a pause, which doubles.
const (
	freeTries  = 5
	firstPause = 30 * time.Second
	maxPause   = time.Hour
)

// nobodysSecret is checked for people who have none, so that they cost the same work. Nobody holds it, and a match counts as none.
const nobodysSecret = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

type verdict int

const (
	wrong verdict = iota
	reused
	right
)

// judgement is what a code comes to: what is to be stored, and what to say.
type judgement struct {
	verdict  verdict
	next     state.Factor
	changed  bool // next must be stored
	method   string
	recovery []string // fresh codes to show
	fault    error
}

// judge decides on a code. It is a pure function but for the recovery codes it draws at an enrolment.
func judge(have state.Factor, a Answer, code code, now time.Time) judgement {
	secret := have.Secret
	if a.Offer != nil {
		secret = a.Offer.Secret
	}
	at, matched := match(secret, code, now)
	spare, isSpare := findRecovery(have.Recovery, a.Who.UserKey(), code)
	switch {
	case isSpare && a.Offer == nil && have.Secret != "":
		next := succeeded(have)
		next.Recovery = append(append([][]byte(nil), have.Recovery[:spare]...), have.Recovery[spare+1:]...)
		return judgement{verdict: right, next: next, changed: true, method: MethodRecovery}
	case matched && at > have.Step:
		return judgeRight(have, a, at, now)
	case matched:
		return judgeReused(have, at)
	}
	return judgeWrong(have, now)
}

func judgeRight(have state.Factor, a Answer, at int64, now time.Time) judgement {
	j := judgement{verdict: right, next: succeeded(have), changed: true, method: MethodTOTP}
	j.next.Step = at
	if a.Offer != nil { // whatever recovery codes there were die here
		j.next.Secret, j.next.Enrolled, j.next.Proxy = a.Offer.Secret, now.UTC(), a.Proxy
		j.recovery, j.next.Recovery = newRecovery(a.Who.UserKey())
	}
	return j
}

func succeeded(have state.Factor) state.Factor {
	have.Wrong, have.Until = 0, time.Time{}
	return have
}

// judgeReused: a used code is no guess, so it does not count towards the lock-out. The first time is noted, and so audited.
func judgeReused(have state.Factor, at int64) judgement {
	j := judgement{verdict: reused, next: have, changed: at > have.Reused,
		fault: fault.New(fault.Denied, opProve, "this code was used already", "wait for the next one, then enter that")}
	j.next.Reused = max(at, have.Reused)
	return j
}

func judgeWrong(have state.Factor, now time.Time) judgement {
	j := judgement{verdict: wrong, next: have, changed: true}
	j.next.Wrong++
	j.next.Until = time.Time{}
	pause := pauseAfter(j.next.Wrong)
	if pause == 0 {
		j.fault = fault.New(fault.Denied, opProve, "this code is wrong", "enter the code that the app shows now; if it stays wrong, let the phone set its clock by itself")
		return j
	}
	j.next.Until = now.Add(pause).UTC()
	j.fault = lockedFault(pause, "this code is wrong, and so were several before it")
	return j
}

func pauseAfter(n int) time.Duration {
	over := n - freeTries
	switch {
	case over < 0:
		return 0
	case over > 10: // 2^10 × 30 s is far beyond the cap
		return maxPause
	}
	return min(firstPause<<over, maxPause)
}

func lockedFault(wait time.Duration, why string) error {
	return fault.New(fault.Exhausted, opProve, why, "try again in "+roundUp(wait))
}

// roundUp says a pause as people do: "30s", "2m", "1h".
func roundUp(d time.Duration) string {
	switch {
	case d <= time.Minute-time.Second:
		return fmt.Sprintf("%ds", int((d+time.Second-1)/time.Second))
	case d <= time.Hour-time.Minute:
		return fmt.Sprintf("%dm", int((d+time.Minute-1)/time.Minute))
	}
	return "1h"
}

// match returns the newest step around now whose code it is. Every step is computed and compared, whichever one matches.
func match(secret string, c code, now time.Time) (step int64, ok bool) {
	real := secret != ""
	if !real {
		secret = nobodysSecret
	}
	middle := now.Unix() / period
	for at := middle - drift; at <= middle+drift; at++ {
		want, err := hotp.GenerateCodeCustom(secret, uint64(at), hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
		if err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(c.totp)) == 1 {
			step, ok = at, real
		}
	}
	return step, ok
}
