package egress

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	balancerWithoutWebsocket = fault.Code{
		Name:   "balancer-without-websocket",
		Kind:   fault.Unavailable,
		Text:   "the balancer at {address} does not open a WebSocket: {status} {reason}",
		Remedy: "ask an administrator to let the balancer pass WebSockets on to {path}",
	}

	httpProxyAddressInvalid = fault.Code{
		Name: "http-proxy-address-invalid",
		Kind: fault.Invalid,
		Text: "the address in HTTPS_PROXY (https_proxy in a file) {why}",
		Remedy: "write http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT with special characters " +
			"as %XX",
	}

	httpProxyAuthenticationUnsupported = fault.Code{
		Name: "http-proxy-authentication-unsupported",
		Kind: fault.Unauthenticated,
		Text: "the HTTP proxy at {proxy} accepts no password, and Threshold supports no other " +
			"authentication",
		Remedy: "ask its administrator for a password, or to allow connections to {address} without " +
			"one",
	}

	httpProxyNotHTTP = fault.Code{
		Name:   "http-proxy-not-http",
		Kind:   fault.Invalid,
		Text:   "the server at {proxy} is not an HTTP proxy",
		Remedy: "check HTTPS_PROXY (https_proxy in a file): it may need https://, or another port",
	}

	httpProxyPasswordMissing = fault.Code{
		Name:   "http-proxy-password-missing",
		Kind:   fault.Unauthenticated,
		Text:   "the HTTP proxy at {proxy} wants a password",
		Remedy: "write HTTPS_PROXY as http://USER:PASSWORD@HOST:PORT",
	}

	httpProxyPasswordWrong = fault.Code{
		Name:   "http-proxy-password-wrong",
		Kind:   fault.Unauthenticated,
		Text:   "the HTTP proxy at {proxy} does not accept the password for \"{user}\"",
		Remedy: "check user and password in HTTPS_PROXY; write special characters in them as %XX",
	}

	httpProxyRefused = fault.Code{
		Name: "http-proxy-refused",
		Kind: fault.Denied,
		Text: "the HTTP proxy at {proxy} refuses CONNECT to {address}: {status} {reason}",
		Remedy: "ask its administrator to allow connections to {address}, or set NO_PROXY to connect " +
			"directly",
	}

	httpProxySilent = fault.Code{
		Name:   "http-proxy-silent",
		Kind:   fault.Unavailable,
		Text:   "the HTTP proxy at {proxy} does not answer CONNECT: {why}",
		Remedy: "check HTTPS_PROXY (https_proxy in a file), then try again",
	}

	httpProxyTLSFailed = fault.Code{
		Name: "http-proxy-tls-failed",
		Kind: fault.Unavailable,
		Text: "no TLS connection to the HTTP proxy at {proxy}: {why}",
		Remedy: "check HTTPS_PROXY: it may need http://; if a company's own authority signed the " +
			"certificate, name its file in SSL_CERT_FILE",
	}

	httpProxyTargetUnreachable = fault.Code{
		Name:   "http-proxy-target-unreachable",
		Kind:   fault.Unavailable,
		Text:   "the HTTP proxy at {proxy} cannot connect to {address}: {status} {reason}",
		Remedy: "check the address; if it is right, try again in a minute",
	}

	httpProxyUnreachable = fault.Code{
		Name:   "http-proxy-unreachable",
		Kind:   fault.Unavailable,
		Text:   "the HTTP proxy at {proxy} cannot be reached: {why}",
		Remedy: "check HTTPS_PROXY (https_proxy in a file) and the network",
	}
)
