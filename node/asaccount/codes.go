package asaccount

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	accountHelperFailed = fault.Code{
		Name:   "account-helper-failed",
		Kind:   fault.Internal,
		Text:   "no helper process could be started as {login}: {why}",
		Remedy: "ask an administrator to look at the account",
	}

	socketPathInvalid = fault.Code{
		Name:   "socket-path-invalid",
		Kind:   fault.Invalid,
		Text:   "this is not a valid path of a Unix socket",
		Remedy: "use the path of a file, with at most {most} bytes",
	}
)
