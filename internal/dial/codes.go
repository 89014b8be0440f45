package dial

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	proxyClosedWithoutAnswer = fault.Code{
		Name:   "proxy-closed-without-answer",
		Kind:   fault.Unavailable,
		Text:   "the proxy closed the connection without an answer",
		Remedy: "try again; if it happens again, ask an administrator to look at the proxy",
	}
)
