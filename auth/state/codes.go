package state

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	attemptUsed = fault.Code{
		Name:   "attempt-used",
		Kind:   fault.Expired,
		Text:   "this login went on in another page, or is finished",
		Remedy: "go on in that page, or start again: tsh login",
	}

	clusterStored = fault.Code{
		Name:   "cluster-stored",
		Kind:   fault.Conflict,
		Text:   "this cluster exists already",
		Remedy: "start without --bootstrap",
	}

	connectorIssuerKept = fault.Code{
		Name: "connector-issuer-kept",
		Kind: fault.Conflict,
		Text: "connector \"{connector}\" belongs to the users of {issuer}: with another issuer, " +
			"strangers could get their roles",
		Remedy: "create a connector with another name for the other issuer",
	}

	keyringChanged = fault.Code{
		Name:   "keyring-changed",
		Kind:   fault.Conflict,
		Text:   "somebody else changed the keyring at the same time",
		Remedy: "load it again",
	}

	locksFull = fault.Code{
		Name: "locks-full",
		Kind: fault.Exhausted,
		Text: "the cluster has {have} locks, and {more} more would be over {most}",
		Remedy: "lock what they have in common, such as a role or a connector, or remove locks that are no " +
			"longer needed: tsh lock ls",
	}

	locksUnreadable = fault.Code{
		Name:   "locks-unreadable",
		Kind:   fault.Internal,
		Text:   "this release cannot read the locks {ids}, which a newer one may have written",
		Remedy: "start the newer release again",
	}

	loginRedeemed = fault.Code{
		Name:   "login-redeemed",
		Kind:   fault.Expired,
		Text:   "this login was redeemed already",
		Remedy: "run: tsh login",
	}

	machineNameTaken = fault.Code{
		Name:   "machine-name-taken",
		Kind:   fault.Conflict,
		Text:   "the name {name} is taken",
		Remedy: "choose another name",
	}

	publicNameOfNode = fault.Code{
		Name:   "public-name-of-node",
		Kind:   fault.Denied,
		Text:   "the public name {name} is the name of a node",
		Remedy: "give the proxy another public name, or remove the node first",
	}

	recordUnknown = fault.Code{
		Name:   "record-unknown",
		Kind:   fault.NotFound,
		Text:   "there is no {noun} \"{key}\"",
		Remedy: "{hint}",
	}

	recordUnreadable = fault.Code{
		Name:   "record-unreadable",
		Kind:   fault.Internal,
		Text:   "this release cannot read the {noun} \"{key}\"",
		Remedy: "run the newest release on every auth replica",
	}

	rolesUnreadable = fault.Code{
		Name:   "roles-unreadable",
		Kind:   fault.Internal,
		Text:   "this release cannot read the roles {names}, which a newer one may have written",
		Remedy: "start the newer release again",
	}

	storeConflict = fault.Code{
		Name:   "store-conflict",
		Kind:   fault.Conflict,
		Text:   "somebody else changed this at the same time",
		Remedy: "read it again and repeat the change",
	}

	tokenNameTaken = fault.Code{
		Name:   "token-name-taken",
		Kind:   fault.Conflict,
		Text:   "there is a token \"{name}\" already",
		Remedy: "choose another name, or remove it: tsh rm token NAME",
	}
)
