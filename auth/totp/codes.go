package totp

import "github.com/threshold-access/threshold/internal/fault"

// tryAgainLater is the remedy during a lockout.
const tryAgainLater = "try again in {retry_after}"

// The errors of this package.
var (
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

	secondFactorMalformed = fault.Code{
		Name: "second-factor-malformed",
		Kind: fault.Invalid,
		Text: "this is not a code: a code has six digits, a recovery code has sixteen letters and " +
			"digits",
		Remedy: "enter the code that the app shows now",
	}

	secondFactorUsed = fault.Code{
		Name:   "second-factor-used",
		Kind:   fault.Denied,
		Text:   "this code was used already",
		Remedy: "wait for the next code, then enter it",
	}

	secondFactorWrong = fault.Code{
		Name: "second-factor-wrong",
		Kind: fault.Denied,
		Text: "this code is wrong",
		Remedy: "enter the code that the app shows now; if that is wrong too, set the phone's clock " +
			"to automatic",
	}

	totpConfigIncomplete = fault.Code{
		Name:   "totp-config-incomplete",
		Kind:   fault.Internal,
		Text:   "the configuration has no store or no issuer",
		Remedy: "report this: it is a defect",
	}

	totpSecretFailed = fault.Code{
		Name:   "totp-secret-failed",
		Kind:   fault.Internal,
		Text:   "no TOTP secret could be generated",
		Remedy: "try again: tsh login",
	}

	secondFactorWrongAgain = fault.Code{
		Name:   "second-factor-wrong-again",
		Kind:   fault.Exhausted,
		Text:   "this code is wrong, and so were several before it",
		Remedy: tryAgainLater,
	}

	secondFactorLocked = fault.Code{
		Name:   "second-factor-locked",
		Kind:   fault.Exhausted,
		Text:   "too many wrong codes were entered",
		Remedy: tryAgainLater,
	}

	secondFactorAddressLocked = fault.Code{
		Name:   "second-factor-address-locked",
		Kind:   fault.Exhausted,
		Text:   "too many wrong codes came from this address",
		Remedy: tryAgainLater,
	}
)
