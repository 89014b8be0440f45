package port

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	authPortBypassed = fault.Code{
		Name:   "auth-port-bypassed",
		Kind:   fault.Unauthenticated,
		Text:   "the request did not come through the auth port",
		Remedy: "call auth at its port",
	}

	authPortFailed = fault.Code{
		Name:   "auth-port-failed",
		Kind:   fault.Internal,
		Text:   "the auth port accepts no more connections",
		Remedy: "check the listener's address and the limit of open files",
	}

	authPortIncomplete = fault.Code{
		Name:   "auth-port-incomplete",
		Kind:   fault.Internal,
		Text:   "the port lacks a listener or a log",
		Remedy: "report this defect",
	}
)
