package join

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	forwardedAddressUnsigned = fault.Code{
		Name:   "forwarded-address-unsigned",
		Kind:   fault.Denied,
		Text:   "the forwarded address is not signed by a proxy of this cluster",
		Remedy: "connect through a proxy of this cluster",
	}

	joinConflict = fault.Code{
		Name:   "join-conflict",
		Kind:   fault.Conflict,
		Text:   "other machines joined at the same moment",
		Remedy: "start the machine again",
	}

	labelInvalid = fault.Code{
		Name:   "label-invalid",
		Kind:   fault.Invalid,
		Text:   "{why}",
		Remedy: "correct the labels, then try again",
	}

	labelNotOwn = fault.Code{
		Name: "label-not-own",
		Kind: fault.Denied,
		Text: "the machine may not give itself the label \"{label}\": its own labels begin with {prefix}",
		Remedy: "write {prefix}{label} in the machine's configuration, or give the label with the token: " +
			"tsh token create --label",
	}

	labelsTooMany = fault.Code{
		Name: "labels-too-many",
		Kind: fault.Invalid,
		Text: "there are {count} labels of {bytes} bytes, more than {most} labels or {most_bytes} " +
			"bytes",
		Remedy: "correct the labels, then try again",
	}

	machineClockWrong = fault.Code{
		Name: "machine-clock-wrong",
		Kind: fault.Invalid,
		Text: "this machine's clock says {machine_time}, auth's says {auth_time}: it is {off} " +
			"{direction}",
		Remedy: "set this machine's clock (timedatectl set-ntp true), then start it again",
	}

	machineKeyUnproven = fault.Code{
		Name:   "machine-key-unproven",
		Kind:   fault.Denied,
		Text:   "the machine does not prove that it holds its key",
		Remedy: updateRemedy,
	}

	machineKeysRefused = fault.Code{
		Name:   "machine-keys-refused",
		Kind:   fault.Invalid,
		Text:   "the machine's keys are not acceptable: {why}",
		Remedy: updateRemedy,
	}

	machineNamesTaken = fault.Code{
		Name:   "machine-names-taken",
		Kind:   fault.Exhausted,
		Text:   "the name {name} and {count} variants of it are taken",
		Remedy: "give the machine another name in its configuration",
	}

	machineLocked = fault.Code{
		Name:   "machine-locked",
		Kind:   fault.Denied,
		Text:   "{reason}",
		Remedy: "{hint}",
	}

	machineNotMember = fault.Code{
		Name:   "machine-not-member",
		Kind:   fault.Denied,
		Text:   "the {kind} {name} is not a member of this cluster any more",
		Remedy: "join again with a new token: tsh token create",
	}

	nameNotInToken = fault.Code{
		Name: "name-not-in-token",
		Kind: fault.Denied,
		Text: "this join token admits machines with names like {pattern}, and not \"{name}\"",
		Remedy: "give the machine such a name in its configuration, or make another token: " +
			"tsh token create --name-pattern",
	}

	nodePublicNames = fault.Code{
		Name:   "node-public-names",
		Kind:   fault.Denied,
		Text:   "a node has no public names",
		Remedy: "correct the machine's configuration, then start it again",
	}

	publicNameInvalid = fault.Code{
		Name:   "public-name-invalid",
		Kind:   fault.Invalid,
		Text:   "{why}",
		Remedy: "correct the machine's configuration, then start it again",
	}

	publicNameNotInToken = fault.Code{
		Name:   "public-name-not-in-token",
		Kind:   fault.Denied,
		Text:   "this join token admits proxies with the public names {names}, and not \"{name}\"",
		Remedy: "make a token with this name: tsh token create --kind proxy --public-name",
	}

	publicNameUnknown = fault.Code{
		Name: "public-name-unknown",
		Kind: fault.Denied,
		Text: "\"{origin}\" is not a public name of the proxy {proxy}",
		Remedy: "ask an administrator to add it to the proxy's public names and to let the proxy " +
			"join again",
	}

	publicNamesTooMany = fault.Code{
		Name:   "public-names-too-many",
		Kind:   fault.Invalid,
		Text:   "the proxy has {count} public names, more than {most}",
		Remedy: "correct the machine's configuration, then start it again",
	}

	tokenExpired = fault.Code{
		Name:   "token-expired",
		Kind:   fault.Expired,
		Text:   "this join token expired at {time}",
		Remedy: newTokenRemedy,
	}

	tokenMalformed = fault.Code{
		Name:   "token-malformed",
		Kind:   fault.Denied,
		Text:   "{why}",
		Remedy: newTokenRemedy,
	}

	tokenOfOtherKind = fault.Code{
		Name:   "token-of-other-kind",
		Kind:   fault.Denied,
		Text:   "this join token is for a {token_kind}, not for a \"{kind}\"",
		Remedy: newTokenRemedy,
	}

	tokenRequestInvalid = fault.Code{
		Name:   "token-request-invalid",
		Kind:   fault.Invalid,
		Text:   "{field}: {why}",
		Remedy: "correct the token's {field}, then try again",
	}

	tokenUnknown = fault.Code{
		Name:   "token-unknown",
		Kind:   fault.Denied,
		Text:   "this join token is not known",
		Remedy: newTokenRemedy,
	}

	tokenUsed = fault.Code{
		Name:   "token-used",
		Kind:   fault.Denied,
		Text:   "this join token was used already, by {count} of {count} machines, the last time at {time}",
		Remedy: newTokenRemedy,
	}
)
