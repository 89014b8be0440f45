package jump

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	dialCertificateInvalid = fault.Code{
		Name:   "dial-certificate-invalid",
		Kind:   fault.Denied,
		Text:   "{why}",
		Remedy: "run: tsh login",
	}

	dialRequestInvalid = fault.Code{
		Name:   "dial-request-invalid",
		Kind:   fault.Invalid,
		Text:   "the dial request is not valid",
		Remedy: "check that client and proxy versions match: tsh version",
	}

	dialRequestTooNew = fault.Code{
		Name:   "dial-request-too-new",
		Kind:   fault.Invalid,
		Text:   "the proxy cannot read the dial request: {why}",
		Remedy: "ask an administrator to update the proxy, or use tsh of the proxy's release",
	}

	jumpCertificateExpired = fault.Code{
		Name:   "jump-certificate-expired",
		Kind:   fault.Expired,
		Text:   "your certificate has expired",
		Remedy: "run: tsh login",
	}

	jumpCertificateNotOffered = fault.Code{
		Name:   "jump-certificate-not-offered",
		Kind:   fault.Unauthenticated,
		Text:   "this proxy accepts only certificates; your client offered none",
		Remedy: "run: tsh login, then configure your client to use the certificate",
	}

	jumpCertificateRefused = fault.Code{
		Name:   "jump-certificate-refused",
		Kind:   fault.Denied,
		Text:   "this proxy does not accept your certificate",
		Remedy: "run: tsh login",
	}

	nodeDetached = fault.Code{
		Name:   "node-detached",
		Kind:   fault.Unavailable,
		Text:   "node {node} is offline ({seen})",
		Remedy: "start threshold-node on it, or ask its administrator to",
	}

	nodeNotAttached = fault.Code{
		Name:   "node-not-attached",
		Kind:   fault.Unavailable,
		Text:   "node {node} is not attached to this proxy at the moment ({seen})",
		Remedy: "try again in a few seconds",
	}

	nodeNotAttachedAndAuthSilent = fault.Code{
		Name: "node-not-attached-and-auth-silent",
		Kind: fault.Unavailable,
		Text: "node {node} is not attached to this proxy, and the auth service does not answer",
		Remedy: "try again in a moment; if it happens again, ask an administrator to check the auth " +
			"service",
	}

	nodeNotReachable = fault.Code{
		Name:   "node-not-reachable",
		Kind:   fault.NotFound,
		Text:   "no node {node} that you may reach",
		Remedy: "see: tsh ls",
	}

	proxyAccessDenied = fault.Code{
		Name:   "proxy-access-denied",
		Kind:   fault.Denied,
		Text:   "{reason}",
		Remedy: "{hint}",
	}

	proxyConnectionsFull = fault.Code{
		Name:   "proxy-connections-full",
		Kind:   fault.Exhausted,
		Text:   "you already have {most} connections through this proxy",
		Remedy: "close some of them, then try again",
	}

	proxyRulesUnusable = fault.Code{
		Name:   "proxy-rules-unusable",
		Kind:   fault.Unavailable,
		Text:   "{why}",
		Remedy: "ask an administrator to check the connection from the proxy to the auth service",
	}
)
