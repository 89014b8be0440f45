package api

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	accessLocked = fault.Code{
		Name:   "access-locked",
		Kind:   fault.Denied,
		Text:   "{reason}",
		Remedy: "{hint}",
	}

	connectionProxyLocked = fault.Code{
		Name:   "connection-proxy-locked",
		Kind:   fault.Denied,
		Text:   "{reason}",
		Remedy: "connect by another proxy, or {hint}",
	}

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
