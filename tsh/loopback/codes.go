package loopback

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	loginCodeMissing = fault.Code{
		Name:   "login-code-missing",
		Kind:   fault.Invalid,
		Text:   "the browser returned without a login code",
		Remedy: "run the command again",
	}

	loginRefusedInBrowser = fault.Code{
		Name:   "login-refused-in-browser",
		Kind:   fault.Denied,
		Text:   "the login was refused in the browser: {why}",
		Remedy: "run the command again, or ask an administrator",
	}
)
