package login

import "github.com/threshold-access/threshold/internal/fault"

// linkUnusable begins the texts about a link that tsh did not make, or that was altered.
const linkUnusable = "this login link cannot be used: "

// The errors of this package.
var (
	attemptExpired = fault.Code{
		Name:   "attempt-expired",
		Kind:   fault.Expired,
		Text:   "this page has expired: a login must be finished within 10 minutes",
		Remedy: startAgain,
	}

	attemptForeign = fault.Code{
		Name:   "attempt-foreign",
		Kind:   fault.Invalid,
		Text:   "this page does not belong to a login of this cluster at this step",
		Remedy: startAgain,
	}

	attemptKeyInvalid = fault.Code{
		Name:   "attempt-key-invalid",
		Kind:   fault.Internal,
		Text:   "the key that seals login attempts is not valid",
		Remedy: "restore it from a backup",
	}

	attemptMissing = fault.Code{
		Name:   "attempt-missing",
		Kind:   fault.Invalid,
		Text:   "this browser has no login in progress",
		Remedy: startAgain + ", in a browser that accepts cookies",
	}

	attemptNotSealed = fault.Code{
		Name:   "attempt-not-sealed",
		Kind:   fault.Internal,
		Text:   "the login cannot continue",
		Remedy: startAgain,
	}

	attemptTooLarge = fault.Code{
		Name:   "attempt-too-large",
		Kind:   fault.Exhausted,
		Text:   "the identity provider sent more data about this user than a login can hold",
		Remedy: "ask an administrator to map fewer roles and traits in the connector",
	}

	callbackOfOtherProvider = fault.Code{
		Name:   "callback-of-other-provider",
		Kind:   fault.Denied,
		Text:   "the callback belongs to another identity provider than this login",
		Remedy: startAgain,
	}

	callbackRepeated = fault.Code{
		Name:   "callback-repeated",
		Kind:   fault.Exhausted,
		Text:   "the identity provider was asked about this login too often",
		Remedy: startAgain,
	}

	connectorsNone = fault.Code{
		Name:   "connectors-none",
		Kind:   fault.Unavailable,
		Text:   "this cluster has no connector, so nobody can log in",
		Remedy: "ask an administrator to apply one: tsh apply -f connector.yaml",
	}

	headlessAddressChanged = fault.Code{
		Name:   "headless-address-changed",
		Kind:   fault.Denied,
		Text:   "this login was requested from another address: {address}",
		Remedy: "start again: tsh login --headless",
	}

	headlessChallengeMalformed = fault.Code{
		Name:   "headless-challenge-malformed",
		Kind:   fault.Invalid,
		Text:   "the challenge is malformed",
		Remedy: "update tsh, then start again: tsh login --headless",
	}

	headlessLoginApproved = fault.Code{
		Name:   "headless-login-approved",
		Kind:   fault.Expired,
		Text:   "this login was approved already",
		Remedy: "start again: tsh login --headless",
	}

	headlessHostMalformed = fault.Code{
		Name:   "headless-host-malformed",
		Kind:   fault.Invalid,
		Text:   "the name of this machine is malformed",
		Remedy: "update tsh, then start again: tsh login --headless",
	}

	identityTooLarge = fault.Code{
		Name:   "identity-too-large",
		Kind:   fault.Exhausted,
		Text:   "no certificate can carry this identity: {why}",
		Remedy: "ask an administrator to map fewer roles and traits",
	}

	loginConfigIncomplete = fault.Code{
		Name:   "login-config-incomplete",
		Kind:   fault.Internal,
		Text:   "the configuration is incomplete",
		Remedy: "report this: it is a defect",
	}

	loginKeyRefused = fault.Code{
		Name:   "login-key-refused",
		Kind:   fault.Invalid,
		Text:   "the {type} key of this request is not accepted: {why}",
		Remedy: "update tsh, then start again: tsh login",
	}

	loginKeyTooLarge = fault.Code{
		Name:   "login-key-too-large",
		Kind:   fault.Invalid,
		Text:   "a key of this request is too large",
		Remedy: "update tsh, then start again: tsh login",
	}

	loginLocked = fault.Code{
		Name:   "login-locked",
		Kind:   fault.Denied,
		Text:   "{reason}",
		Remedy: "{hint}",
	}

	loginNotRedeemable = fault.Code{
		Name:   "login-not-redeemable",
		Kind:   fault.Expired,
		Text:   "this login was used already, has expired, or does not exist",
		Remedy: startAgain,
	}

	loginOfOtherClient = fault.Code{
		Name:   "login-of-other-client",
		Kind:   fault.Denied,
		Text:   "this login was made for another client or other keys",
		Remedy: "log in on this machine: tsh login",
	}

	loginOvertaken = fault.Code{
		Name:   "login-overtaken",
		Kind:   fault.Conflict,
		Text:   "an administrator changed what you may do while you logged in",
		Remedy: "log in again: tsh login",
	}

	machineAddressUnknown = fault.Code{
		Name:   "machine-address-unknown",
		Kind:   fault.Internal,
		Text:   "the address of this machine is not known",
		Remedy: "log in with a browser: tsh login",
	}

	proxyOnly = fault.Code{
		Name:   "proxy-only",
		Kind:   fault.Denied,
		Text:   "only a proxy may make this request",
		Remedy: "log in through a proxy: tsh login",
	}

	publicAddressInvalid = fault.Code{
		Name:   "public-address-invalid",
		Kind:   fault.Invalid,
		Text:   "the proxy's public address is not of the form https://host or https://host:port",
		Remedy: "ask an administrator to set the proxy's public address",
	}

	secondFactorOfOtherUser = fault.Code{
		Name:   "second-factor-of-other-user",
		Kind:   fault.Internal,
		Text:   "the second factor belongs to another user",
		Remedy: startAgain,
	}

	secondFactorTooLong = fault.Code{
		Name:   "second-factor-too-long",
		Kind:   fault.Invalid,
		Text:   "the answer is too long",
		Remedy: "enter the code that the app shows now",
	}

	loginLinkMixed = fault.Code{
		Name:   "login-link-mixed",
		Kind:   fault.Invalid,
		Text:   linkUnusable + "it mixes a browser login and a headless login",
		Remedy: "open the complete link that tsh login shows",
	}

	loginLinkChallengeMalformed = fault.Code{
		Name:   "login-link-challenge-malformed",
		Kind:   fault.Invalid,
		Text:   linkUnusable + "its challenge is malformed",
		Remedy: "open the complete link that tsh login shows",
	}

	loginLinkStateMalformed = fault.Code{
		Name:   "login-link-state-malformed",
		Kind:   fault.Invalid,
		Text:   linkUnusable + "its state is malformed",
		Remedy: "open the complete link that tsh login shows",
	}

	loginLinkCallbackForeign = fault.Code{
		Name:   "login-link-callback-foreign",
		Kind:   fault.Invalid,
		Text:   linkUnusable + "its callback address is not on this machine",
		Remedy: "open the complete link that tsh login shows",
	}

	loginLinkHostMalformed = fault.Code{
		Name:   "login-link-host-malformed",
		Kind:   fault.Invalid,
		Text:   linkUnusable + "the name of the computer in it is malformed",
		Remedy: "open the complete link that tsh login shows",
	}

	loginLinkLocaleInvalid = fault.Code{
		Name:   "login-link-locale-invalid",
		Kind:   fault.Invalid,
		Text:   linkUnusable + "its language tag is not valid",
		Remedy: "open the complete link that tsh login shows",
	}

	loginLinkTooLong = fault.Code{
		Name:   "login-link-too-long",
		Kind:   fault.Invalid,
		Text:   linkUnusable + "one of its parameters is too long",
		Remedy: "open the complete link that tsh login shows",
	}
)
