package daemon

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	healthAddressInvalid = fault.Code{
		Name:   "health-address-invalid",
		Kind:   fault.Invalid,
		Text:   "the health address {address} {why}",
		Remedy: "change spec.health",
	}

	healthAddressUsed = fault.Code{
		Name:   "health-address-used",
		Kind:   fault.Conflict,
		Text:   "cannot listen on {address} for health",
		Remedy: "stop the program that uses the port, or change spec.health",
	}

	logFlagsInvalid = fault.Code{
		Name:   "log-flags-invalid",
		Kind:   fault.Invalid,
		Text:   "{why}",
		Remedy: "correct --log-level or --log-format",
	}
)
