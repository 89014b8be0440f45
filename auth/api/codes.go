package api

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	loginAddressChanged = fault.Code{
		Name:   "login-address-changed",
		Kind:   fault.Denied,
		Text:   "{why}",
		Remedy: "log in where you are now: tsh login",
	}

	userRemoved = fault.Code{
		Name:   "user-removed",
		Kind:   fault.Denied,
		Text:   "{user} is not a user of this cluster any more",
		Remedy: "run: tsh login",
	}
)
