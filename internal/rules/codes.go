package rules

import "github.com/threshold-access/threshold/internal/fault"

// updateProgram is the remedy when auth runs a newer release than this program.
const updateProgram = "update this program to the release of the auth service"

// The errors of this package.
var (
	authorityUnknown = fault.Code{
		Name:   "authority-unknown",
		Kind:   fault.Invalid,
		Text:   "this program does not know the critical authority \"{authority}\" in state \"{state}\"",
		Remedy: updateProgram,
	}

	rulesKindUnknown = fault.Code{
		Name:   "rules-kind-unknown",
		Kind:   fault.Invalid,
		Text:   "this program does not know documents of kind {kind} (version {version}), which are critical",
		Remedy: updateProgram,
	}

	rulesVersionUnknown = fault.Code{
		Name:   "rules-version-unknown",
		Kind:   fault.Invalid,
		Text:   "the document {kind} is of version {version}, this program reads 1 to {newest}",
		Remedy: updateProgram,
	}
)
