package member

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	joinClockWrong = fault.Code{
		Name: "join-clock-wrong",
		Kind: fault.Invalid,
		Text: "this machine's clock says {now}, and the cluster's certificate is valid from {from} " +
			"to {until}",
		Remedy: setClock,
	}

	joinPinWrong = fault.Code{
		Name:   "join-pin-wrong",
		Kind:   fault.Denied,
		Text:   "the server is not in the cluster that the token is for ({why})",
		Remedy: "check the proxy's address, and that the token is for this cluster",
	}

	joinTokenMalformed = fault.Code{
		Name:   "join-token-malformed",
		Kind:   fault.Invalid,
		Text:   "{why}",
		Remedy: "copy the whole token again, or ask an administrator for a new one",
	}

	joinTokenMissing = fault.Code{
		Name:   "join-token-missing",
		Kind:   fault.Unauthenticated,
		Text:   "this machine is not a member yet, and there is no join token",
		Remedy: "ask an administrator for one and start with --token-file FILE or THRESHOLD_TOKEN set",
	}

	joinTokenOfOtherKind = fault.Code{
		Name:   "join-token-of-other-kind",
		Kind:   fault.Invalid,
		Text:   "the join token is for a {token_kind}, and this machine is to be a {kind}",
		Remedy: "ask an administrator for a token of kind {own_kind}",
	}

	memberAddressMissing = fault.Code{
		Name:   "member-address-missing",
		Kind:   fault.Invalid,
		Text:   "there is no address to reach the cluster at",
		Remedy: "give the proxy's address, as --proxy proxy.example.com:443",
	}

	memberAnswerInvalid = fault.Code{
		Name:   "member-answer-invalid",
		Kind:   fault.Denied,
		Text:   "auth's answer cannot be verified ({why})",
		Remedy: "check the proxy's address, and ask an administrator to check auth",
	}

	memberCertificateRefused = fault.Code{
		Name: "member-certificate-refused",
		Kind: fault.Unauthenticated,
		Text: "auth refused this machine's certificate ({why})",
		Remedy: "ask an administrator whether this machine was removed; if so, empty its data " +
			"directory and join again with a new token",
	}

	memberClockWrong = fault.Code{
		Name:   "member-clock-wrong",
		Kind:   fault.Invalid,
		Text:   "this machine's clock says {now}, and auth's says {auth_time}: they are {gap} apart",
		Remedy: setClock,
	}

	memberDiskFull = fault.Code{
		Name:   "member-disk-full",
		Kind:   fault.Exhausted,
		Text:   "the disk is full: {file} cannot be written",
		Remedy: "free some space there; nothing was changed",
	}

	memberFileDenied = fault.Code{
		Name:   "member-file-denied",
		Kind:   fault.Denied,
		Text:   "this account may not use {file}",
		Remedy: "start as the account that owns it, or name another directory with --data",
	}

	memberFileOpen = fault.Code{
		Name:   "member-file-open",
		Kind:   fault.Invalid,
		Text:   "other accounts may read {file}",
		Remedy: "run: chmod 600 {file}",
	}

	memberFileUnusable = fault.Code{
		Name:   "member-file-unusable",
		Kind:   fault.Internal,
		Text:   "{file} cannot be used",
		Remedy: "check the disk and this machine's log",
	}

	memberFolderMissing = fault.Code{
		Name:   "member-folder-missing",
		Kind:   fault.Invalid,
		Text:   "there is no data directory",
		Remedy: "name one with --data",
	}

	memberFolderOpen = fault.Code{
		Name:   "member-folder-open",
		Kind:   fault.Invalid,
		Text:   "other accounts may enter {folder}, which holds keys",
		Remedy: "run: chmod 700 {folder}",
	}

	memberKindInvalid = fault.Code{
		Name:   "member-kind-invalid",
		Kind:   fault.Invalid,
		Text:   "only nodes and proxies join, not {kind}",
		Remedy: "start this machine as a node or a proxy",
	}

	memberOfOtherCluster = fault.Code{
		Name:   "member-of-other-cluster",
		Kind:   fault.Conflict,
		Text:   "{folder} holds a membership in another cluster than the token's",
		Remedy: "use another data directory, or remove {folder} to leave the old cluster for good",
	}

	membershipDamaged = fault.Code{
		Name:   "membership-damaged",
		Kind:   fault.Invalid,
		Text:   "the membership in {folder} is damaged ({why})",
		Remedy: "restore {folder} from a backup, or remove it and join again with a new token",
	}

	membershipTooNew = fault.Code{
		Name:   "membership-too-new",
		Kind:   fault.Invalid,
		Text:   "the membership in {folder} needs a newer program: {why}",
		Remedy: "update this program to the release that ran here before",
	}
)
