package totp

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
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

	totpSecretFailed = fault.Code{
		Name:   "totp-secret-failed",
		Kind:   fault.Internal,
		Text:   "no TOTP secret could be generated",
		Remedy: "try again: tsh login",
	}

	totpEnrolmentUnreadable = fault.Code{
		Name:   "totp-enrolment-unreadable",
		Kind:   fault.Internal,
		Text:   "the enrolment of this login cannot be read",
		Remedy: "start again: tsh login",
	}

	totpRecordUnreadable = fault.Code{
		Name:   "totp-record-unreadable",
		Kind:   fault.Internal,
		Text:   "the record of this second factor cannot be read",
		Remedy: "ask an administrator to remove it: tsh rm user NAME; the next login enrols a new one",
	}
)
