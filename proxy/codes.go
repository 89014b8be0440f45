package proxy

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	proxyConfigInvalid = fault.Code{
		Name:   "proxy-config-invalid",
		Kind:   fault.Invalid,
		Text:   "the configuration of the proxy is not valid",
		Remedy: "correct it, then start again",
	}
)
