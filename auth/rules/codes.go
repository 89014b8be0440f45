package rules

import "github.com/threshold-access/threshold/internal/fault"

const opPublish = "rules.Publish"

// The errors of this package.
var (
	acknowledgementsTooMany = fault.Code{
		Name:   "acknowledgements-too-many",
		Kind:   fault.Invalid,
		Text:   "{count} acknowledgements in one call, more than {most}",
		Remedy: "send them in several calls",
	}

	authoritiesMissing = fault.Code{
		Name:   "authorities-missing",
		Kind:   fault.Internal,
		Text:   "the store holds no authorities document",
		Remedy: "restore the data folder from a backup",
	}

	confirmationsUnfinished = fault.Code{
		Name:   "confirmations-unfinished",
		Kind:   fault.Unavailable,
		Text:   "the auth service stopped while it waited for machines to confirm a lock",
		Remedy: "ask again in a moment; the lock is written",
	}

	locksNotPublished = fault.Code{
		Name:   "locks-not-published",
		Kind:   fault.Unavailable,
		Text:   "this release cannot read the locks {ids}, so it publishes no changes of locks",
		Remedy: "run the newer release that wrote them",
	}

	rulesKeyUntrusted = fault.Code{
		Name:   "rules-key-untrusted",
		Kind:   fault.Internal,
		Text:   "this replica's rules key is none that machines trust now",
		Remedy: "start it with the keys of the newest authorities document",
	}

	rulesNotSigned = fault.Code{
		Name:   "rules-not-signed",
		Kind:   fault.Unavailable,
		Text:   "this auth replica has not signed the rules yet",
		Remedy: "try again in a moment",
	}

	rulesTooLarge = fault.Code{
		Name:   "rules-too-large",
		Kind:   fault.Exhausted,
		Text:   "the rules are {bytes} bytes, more than {max}: machines keep the rules that they have",
		Remedy: "remove roles that are not used",
	}
)
