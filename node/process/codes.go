package process

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	accountShellDeniesTransfer = fault.Code{
		Name: "account-shell-denies-transfer",
		Kind: fault.Denied,
		Text: "the login shell of {login} is {shell}, which does not allow file transfer",
		Remedy: "ask an administrator to give the account a shell of /etc/shells, or use another " +
			"login",
	}

	nodeDiskFull = fault.Code{
		Name:   "node-disk-full",
		Kind:   fault.Exhausted,
		Text:   "this node's disk is full",
		Remedy: "ask an administrator to free space on the node",
	}

	programNotStarted = fault.Code{
		Name:   "program-not-started",
		Kind:   fault.Internal,
		Text:   "{program} could not be started as {login}: {why}",
		Remedy: "ask an administrator to look at the account and its login shell",
	}
)
