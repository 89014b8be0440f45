package authrpc

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	authAnswerIncomplete = fault.Code{
		Name:   "auth-answer-incomplete",
		Kind:   fault.Unavailable,
		Text:   "the connection ended before auth's answer was complete",
		Remedy: "try again",
	}

	authCertificateExpired = fault.Code{
		Name:   "auth-certificate-expired",
		Kind:   fault.Expired,
		Text:   "the server's {why}",
		Remedy: "set this machine's clock, or ask an administrator to look at auth",
	}

	authPinWrong = fault.Code{
		Name: "auth-pin-wrong",
		Kind: fault.Denied,
		Text: "{address} is not the cluster with {pin}: it was rebuilt, or the connection is being " +
			"intercepted",
		Remedy: "ask an administrator for the cluster's pin",
	}

	authStreamEnded = fault.Code{
		Name:   "auth-stream-ended",
		Kind:   fault.Unavailable,
		Text:   "the stream from auth ended",
		Remedy: "try again",
	}

	authUnreachable = fault.Code{
		Name:   "auth-unreachable",
		Kind:   fault.Unavailable,
		Text:   "auth cannot be reached at {address}: {why}",
		Remedy: "check the address and the network, then try again",
	}

	certificateExpired = fault.Code{
		Name:   "certificate-expired",
		Kind:   fault.Expired,
		Text:   "the certificate has expired",
		Remedy: "run: tsh login",
	}

	certificateMissing = fault.Code{
		Name:   "certificate-missing",
		Kind:   fault.Unauthenticated,
		Text:   "this needs a certificate",
		Remedy: "run: tsh login",
	}

	certificateOfOtherKind = fault.Code{
		Name:   "certificate-of-other-kind",
		Kind:   fault.Denied,
		Text:   "a {kind} certificate may not do this",
		Remedy: "log in as a user: tsh login",
	}

	clientCertificateRefused = fault.Code{
		Name:   "client-certificate-refused",
		Kind:   fault.Unauthenticated,
		Text:   "the server does not accept this certificate",
		Remedy: "run: tsh login",
	}

	requestTooLarge = fault.Code{
		Name:   "request-too-large",
		Kind:   fault.Invalid,
		Text:   "the request is too large",
		Remedy: "send less at once",
	}

	requestUnreadable = fault.Code{
		Name:   "request-unreadable",
		Kind:   fault.Invalid,
		Text:   "the request could not be read",
		Remedy: "check that client and server versions match: tsh version",
	}
)
