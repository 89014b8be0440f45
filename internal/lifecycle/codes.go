package lifecycle

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	componentStarting = fault.Code{
		Name:   "component-starting",
		Kind:   fault.Unavailable,
		Text:   "{component} is still starting",
		Remedy: "wait, and look at its log if that takes long",
	}

	componentStopped = fault.Code{
		Name:   "component-stopped",
		Kind:   fault.Unavailable,
		Text:   "{component} has stopped",
		Remedy: "start it again",
	}

	componentStoppedEarly = fault.Code{
		Name:   "component-stopped-early",
		Kind:   fault.Unavailable,
		Text:   "{component} has stopped before it was ready",
		Remedy: "start it again",
	}
)
