package forward

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	agentSocketFailed = fault.Code{
		Name:   "agent-socket-failed",
		Kind:   fault.Internal,
		Text:   "on this node, the socket for your SSH agent could not be made: {why}",
		Remedy: "ask an administrator to look at the node's /tmp",
	}

	forwardConnectionFull = fault.Code{
		Name:   "forward-connection-full",
		Kind:   fault.Exhausted,
		Text:   "this connection has {count} forwarded connections already",
		Remedy: "end some, or open a new connection",
	}

	forwardHostForbidden = fault.Code{
		Name:   "forward-host-forbidden",
		Kind:   fault.Denied,
		Text:   "{host} is a link-local or metadata address, to which this node does not forward",
		Remedy: "use another address of that host",
	}

	forwardHostInvalid = fault.Code{
		Name:   "forward-host-invalid",
		Kind:   fault.Invalid,
		Text:   "the host name is invalid",
		Remedy: "use a host name or an address",
	}

	forwardHostMissing = fault.Code{
		Name:   "forward-host-missing",
		Kind:   fault.Invalid,
		Text:   "the request names no host",
		Remedy: "name the host to reach, as in: ssh -L 8080:localhost:80",
	}

	forwardHostUnknown = fault.Code{
		Name:   "forward-host-unknown",
		Kind:   fault.NotFound,
		Text:   "from this node, {host} has no address",
		Remedy: "correct the name, or use an address",
	}

	forwardHostUnreachable = fault.Code{
		Name:   "forward-host-unreachable",
		Kind:   fault.Unavailable,
		Text:   "from this node, {host} cannot be reached: {why}",
		Remedy: "correct the name, or use an address",
	}

	forwardNodeFull = fault.Code{
		Name:   "forward-node-full",
		Kind:   fault.Exhausted,
		Text:   "this node has reached its limit of forwarded connections",
		Remedy: "try again later",
	}

	forwardPathDenied = fault.Code{
		Name:   "forward-path-denied",
		Kind:   fault.Denied,
		Text:   "on this node, the account may not use {path} (permission denied)",
		Remedy: "use another path, or another account",
	}

	forwardPathExists = fault.Code{
		Name:   "forward-path-exists",
		Kind:   fault.Conflict,
		Text:   "on this node, {path} already exists",
		Remedy: "remove it, or use another path",
	}

	forwardPathMissing = fault.Code{
		Name:   "forward-path-missing",
		Kind:   fault.Invalid,
		Text:   "the request names no path of a socket",
		Remedy: "name the path",
	}

	forwardPathUnknown = fault.Code{
		Name:   "forward-path-unknown",
		Kind:   fault.NotFound,
		Text:   "on this node, {path} does not exist",
		Remedy: "correct the path, or start the program that listens there",
	}

	forwardPathUnusable = fault.Code{
		Name:   "forward-path-unusable",
		Kind:   fault.Unavailable,
		Text:   "on this node, {path} cannot be used: {why}",
		Remedy: "check that the program that listens there runs",
	}

	forwardPortInvalid = fault.Code{
		Name:   "forward-port-invalid",
		Kind:   fault.Invalid,
		Text:   "the port is invalid",
		Remedy: "use a port from 1 to 65535",
	}

	forwardRequestMalformed = fault.Code{
		Name:   "forward-request-malformed",
		Kind:   fault.Invalid,
		Text:   "the request {request} could not be read",
		Remedy: "update the SSH client",
	}

	forwardTargetUnreachable = fault.Code{
		Name:   "forward-target-unreachable",
		Kind:   fault.Unavailable,
		Text:   "from this node, {target} cannot be reached: {why}",
		Remedy: "check that it runs and that the node may reach it",
	}

	forwardTooFast = fault.Code{
		Name:   "forward-too-fast",
		Kind:   fault.Exhausted,
		Text:   "this connection forwards to new targets too fast",
		Remedy: "open them more slowly",
	}

	listenPortPrivileged = fault.Code{
		Name:   "listen-port-privileged",
		Kind:   fault.Denied,
		Text:   "on this node, only root may listen on port {port}",
		Remedy: "use a port from 1024 on",
	}

	listenPortUnusable = fault.Code{
		Name:   "listen-port-unusable",
		Kind:   fault.Unavailable,
		Text:   "on this node, nothing can listen on port {port}: {why}",
		Remedy: "use another port, or 0 for any",
	}

	listenPortUsed = fault.Code{
		Name:   "listen-port-used",
		Kind:   fault.Conflict,
		Text:   "on this node, port {port} is in use",
		Remedy: "use another port, or 0 for any",
	}

	listenerUnknown = fault.Code{
		Name:   "listener-unknown",
		Kind:   fault.NotFound,
		Text:   "this connection does not listen on {address}",
		Remedy: "name the address that was requested",
	}

	listenersConnectionFull = fault.Code{
		Name:   "listeners-connection-full",
		Kind:   fault.Exhausted,
		Text:   "this connection has {count} listeners already",
		Remedy: "cancel one, or open a new connection",
	}

	listenersNodeFull = fault.Code{
		Name:   "listeners-node-full",
		Kind:   fault.Exhausted,
		Text:   "this node has reached its limit of listeners",
		Remedy: "try again later",
	}
)
