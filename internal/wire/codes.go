package wire

import "github.com/threshold-access/threshold/internal/fault"

// remedy is the remedy of every error of this package.
const remedy = "update this program to the release that wrote it, or to a newer one"

// The errors of this package.
var (
	fieldUnknown = fault.Code{
		Name:   "field-unknown",
		Kind:   fault.Invalid,
		Text:   "this program does not know the field \"{field}\", which is critical",
		Remedy: remedy,
	}

	structureTooNew = fault.Code{
		Name:   "structure-too-new",
		Kind:   fault.Invalid,
		Text:   "{what}, of version {version}, needs a newer program: {why}",
		Remedy: remedy,
	}

	versionUnknown = fault.Code{
		Name:   "version-unknown",
		Kind:   fault.Invalid,
		Text:   "{what} is of version {version}, this program reads 1 to {newest}",
		Remedy: remedy,
	}
)
