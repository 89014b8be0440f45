package web

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	authSilent = fault.Code{
		Name:   "auth-silent",
		Kind:   fault.Unavailable,
		Text:   "the auth service does not answer this proxy",
		Remedy: "try again in a minute; if it happens again, tell an administrator",
	}

	formOfOtherSite = fault.Code{
		Name:   "form-of-other-site",
		Kind:   fault.Denied,
		Text:   "this form was sent from another site",
		Remedy: "close that page, then run: tsh login",
	}

	formUnreadable = fault.Code{
		Name:   "form-unreadable",
		Kind:   fault.Invalid,
		Text:   "the form could not be read",
		Remedy: remedyLogin,
	}

	loginAddressInvalid = fault.Code{
		Name:   "login-address-invalid",
		Kind:   fault.Invalid,
		Text:   "the login address is not valid",
		Remedy: remedyLogin,
	}

	loginNotFromTerminal = fault.Code{
		Name:   "login-not-from-terminal",
		Kind:   fault.Invalid,
		Text:   "a login must be started in the terminal",
		Remedy: remedyLogin,
	}

	loginNotInProgress = fault.Code{
		Name: "login-not-in-progress",
		Kind: fault.Expired,
		Text: "this browser has no login in progress: it was finished already, or the browser " +
			"keeps no cookies",
		Remedy: remedyLogin,
	}

	loginPageOfOtherLogin = fault.Code{
		Name:   "login-page-of-other-login",
		Kind:   fault.Expired,
		Text:   "this page belongs to another login than the one in progress in this browser",
		Remedy: remedyLogin,
	}

	pageUnknown = fault.Code{
		Name:   "page-unknown",
		Kind:   fault.NotFound,
		Text:   "there is no such page",
		Remedy: "go to the start page",
	}

	secondFactorEmpty = fault.Code{
		Name:   "second-factor-empty",
		Kind:   fault.Invalid,
		Text:   "this is not a code",
		Remedy: "type the six digits that your authenticator app shows",
	}

	secondFactorNoForm = fault.Code{
		Name:   "second-factor-no-form",
		Kind:   fault.Unavailable,
		Text:   "this proxy has no form for this second factor: {kinds}",
		Remedy: "ask an administrator to update the proxy, or log in through another proxy",
	}

	usersTooMany = fault.Code{
		Name:   "users-too-many",
		Kind:   fault.Unavailable,
		Text:   "too many users are logging in at the same time",
		Remedy: "wait a minute, then try again",
	}
)
