package account

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	accountExpired = fault.Code{
		Name:   "account-expired",
		Kind:   fault.Denied,
		Text:   "the account {login} of this node has expired",
		Remedy: "ask an administrator of the node to extend it (chage -E)",
	}

	accountExpiryUnreadable = fault.Code{
		Name:   "account-expiry-unreadable",
		Kind:   fault.Internal,
		Text:   "the accounts of this node cannot be read",
		Remedy: "ask an administrator to look at the node",
	}

	accountNameInvalid = fault.Code{
		Name:   "account-name-invalid",
		Kind:   fault.Invalid,
		Text:   "{why}",
		Remedy: "name an account of the node",
	}

	accountUnknown = fault.Code{
		Name:   "account-unknown",
		Kind:   fault.NotFound,
		Text:   "there is no account \"{login}\" on this node",
		Remedy: "ask an administrator to create the account, or use another login",
	}

	accountsUnreadable = fault.Code{
		Name:   "accounts-unreadable",
		Kind:   fault.Internal,
		Text:   "the accounts of this node cannot be read",
		Remedy: "ask an administrator to look at the node",
	}

	groupsUnreadable = fault.Code{
		Name:   "groups-unreadable",
		Kind:   fault.Internal,
		Text:   "the groups of this node cannot be read",
		Remedy: "ask an administrator to look at the node",
	}

	nodeClosedToLogins = fault.Code{
		Name:   "node-closed-to-logins",
		Kind:   fault.Unavailable,
		Text:   "{message}",
		Remedy: "try again later, or ask an administrator of the node",
	}

	nodeNotRoot = fault.Code{
		Name:   "node-not-root",
		Kind:   fault.Denied,
		Text:   "this node runs as {account}, not as root, so it cannot start a session as {login}",
		Remedy: "log in as {account}, or ask an administrator to run the node as root",
	}
)
