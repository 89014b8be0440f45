package audit

import "github.com/threshold-access/threshold/internal/fault"

// eventMalformed is the error of an event that cannot be used. The versions of machines and of the auth
// service may differ; wire.Check reports the differences that a format announces.
var eventMalformed = fault.Code{
	Name:   "event-malformed",
	Kind:   fault.Invalid,
	Text:   "the audit event is not valid: {why}",
	Remedy: "update this machine and the auth service to the same release",
}
