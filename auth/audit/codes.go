package audit

import "github.com/threshold-access/threshold/internal/fault"

const updateMachine = "update this machine and the auth service to the same release"

// The errors of this package.
var (
	eventNotAllowed = fault.Code{
		Name:   "event-not-allowed",
		Kind:   fault.Invalid,
		Text:   "a {kind} may not report {code}",
		Remedy: updateMachine,
	}

	eventWithoutPlace = fault.Code{
		Name:   "event-without-place",
		Kind:   fault.Invalid,
		Text:   "the audit event {code} has no place in the spool of its machine",
		Remedy: updateMachine,
	}

	eventWithoutUser = fault.Code{
		Name:   "event-without-user",
		Kind:   fault.Invalid,
		Text:   "the audit event {code} does not say which user it is about",
		Remedy: updateMachine,
	}

	tooManyEvents = fault.Code{
		Name:   "too-many-events",
		Kind:   fault.Invalid,
		Text:   "{count} events in one call, more than {most}",
		Remedy: "send fewer at once",
	}
)
