package bootstrap

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	keyringNone = fault.Code{
		Name:   "keyring-none",
		Kind:   fault.NotFound,
		Text:   "there is no keyring yet",
		Remedy: "report this: it is a defect",
	}
)
