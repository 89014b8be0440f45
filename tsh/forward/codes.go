package forward

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	forwardAddressUnusable = fault.Code{
		Name:   "forward-address-unusable",
		Kind:   fault.Invalid,
		Text:   "cannot listen on {address} on this machine: {why}",
		Remedy: "choose an address of this machine",
	}

	forwardPortPrivileged = fault.Code{
		Name:   "forward-port-privileged",
		Kind:   fault.Denied,
		Text:   "cannot listen on {address} on this machine: {why}",
		Remedy: "choose a port above 1023",
	}

	forwardPortUsed = fault.Code{
		Name:   "forward-port-used",
		Kind:   fault.Conflict,
		Text:   "cannot listen on {address} on this machine: {why}",
		Remedy: "choose another port, or end the program that uses it",
	}

	forwardRuleInvalid = fault.Code{
		Name:   "forward-rule-invalid",
		Kind:   fault.Invalid,
		Text:   "the value \"{value}\" of {flag} is not valid",
		Remedy: "{hint}",
	}

	forwardSocketUsed = fault.Code{
		Name:   "forward-socket-used",
		Kind:   fault.Conflict,
		Text:   "cannot listen on {address} on this machine: {why}",
		Remedy: "if no program uses the socket any more: rm {path}",
	}

	forwardConnectionLost = fault.Code{
		Name:   "forward-connection-lost",
		Kind:   fault.Unavailable,
		Text:   "the connection to the node was lost",
		Remedy: "connect again",
	}

	listenRefused = fault.Code{
		Name:   "listen-refused",
		Kind:   fault.Denied,
		Text:   "the node does not listen on {address}: {why}",
		Remedy: "{hint}",
	}
)
