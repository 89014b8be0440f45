package factor

import (
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/fault"
)

// The lockout of a user: the wrong answer number freeAttempts in a row locks the user out for firstLockout.
// Each further one does so for twice as long as the one before, up to maxLockout.
const (
	freeAttempts = 5
	firstLockout = 30 * time.Second
	maxLockout   = time.Hour
)

// resetWrongAnswers returns the factors after a correct answer: the wrong ones before no longer count.
func resetWrongAnswers(f state.UserFactors) state.UserFactors {
	f.WrongAnswers, f.LockedUntil = 0, time.Time{}
	return f
}

// refuseWrong refuses a wrong answer and counts it. The last free wrong answer and every one after it lock
// the user out, each for longer (lockoutAfter). refusal is the error before that.
func refuseWrong(stored state.UserFactors, refusal error, now time.Time) outcome {
	refused := outcome{verdict: Wrong, next: stored, mustStore: true, refusal: refusal}
	refused.next.WrongAnswers++
	refused.next.LockedUntil = time.Time{} // the lockout before, if there was one, is over
	if wait := lockoutAfter(refused.next.WrongAnswers); wait > 0 {
		refused.next.LockedUntil = now.Add(wait).UTC()
		refused.refusal = lockedFault(wait, secondFactorWrongAgain)
	}
	return refused
}

// lockoutAfter returns how long a user waits after n wrong answers in a row: nothing before freeAttempts,
// then firstLockout, and twice as long for each further one, up to maxLockout.
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
