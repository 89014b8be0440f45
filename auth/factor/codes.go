package factor

import "github.com/threshold-access/threshold/internal/fault"

// tryAgainLater is the remedy during a lockout.
const tryAgainLater = "try again in {retry_after}"

// The errors of this package.
var (
	factorConfigIncomplete = fault.Code{
		Name:   "factor-config-incomplete",
		Kind:   fault.Internal,
		Text:   "the configuration has no store or no method",
		Remedy: "report this: it is a defect",
	}

	recoveryCodeWrong = fault.Code{
		Name:   "recovery-code-wrong",
		Kind:   fault.Denied,
		Text:   "this recovery code is wrong, or it was used already",
		Remedy: "enter another one of the recovery codes that you wrote down",
	}

	secondFactorAddressLocked = fault.Code{
		Name:   "second-factor-address-locked",
		Kind:   fault.Exhausted,
		Text:   "too many wrong codes came from this address",
		Remedy: tryAgainLater,
	}

	secondFactorBusy = fault.Code{
		Name:   "second-factor-busy",
		Kind:   fault.Unavailable,
		Text:   "too many codes of this user are being checked at once",
		Remedy: "wait for the next code, then try again",
	}

	secondFactorEnrolledElsewhere = fault.Code{
		Name:   "second-factor-enrolled-elsewhere",
		Kind:   fault.Expired,
		Text:   "a second factor was already enrolled in another login",
		Remedy: "start again: tsh login, and use the app that was enrolled there",
	}

	secondFactorKindUnknown = fault.Code{
		Name:   "second-factor-kind-unknown",
		Kind:   fault.Invalid,
		Text:   "this login has no second factor of the kind {kind}",
		Remedy: "start again: tsh login",
	}

	secondFactorLocked = fault.Code{
		Name:   "second-factor-locked",
		Kind:   fault.Exhausted,
		Text:   "too many wrong codes were entered",
		Remedy: tryAgainLater,
	}

	secondFactorWrongAgain = fault.Code{
		Name:   "second-factor-wrong-again",
		Kind:   fault.Exhausted,
		Text:   "this code is wrong, and so were several before it",
		Remedy: tryAgainLater,
	}
)
