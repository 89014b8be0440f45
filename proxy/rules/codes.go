package rules

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	proxyWithoutRules = fault.Code{
		Name:   "proxy-without-rules",
		Kind:   fault.Unavailable,
		Text:   "the proxy has no rules that its cluster signed",
		Remedy: "remove the proxy's data directory and join it again with a new token",
	}
)
