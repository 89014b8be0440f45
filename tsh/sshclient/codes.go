package sshclient

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	certificateUpdateRefused = fault.Code{
		Name:   "certificate-update-refused",
		Kind:   fault.Denied,
		Text:   "{why}",
		Remedy: "{hint}",
	}

	certificateUpdateUnknown = fault.Code{
		Name:   "certificate-update-unknown",
		Kind:   fault.Invalid,
		Text:   "the node cannot take a newer certificate on an open connection",
		Remedy: "connect again; an administrator can update threshold-node on the node",
	}

	hostCertificateExpired = fault.Code{
		Name:   "host-certificate-expired",
		Kind:   fault.Expired,
		Text:   "the node's {why}",
		Remedy: "check this machine's clock; if it is right, check threshold-node on {node}",
	}

	hostCertificateHidden = fault.Code{
		Name:   "host-certificate-hidden",
		Kind:   fault.Denied,
		Text:   "what the node sends is no SSH handshake, so tsh cannot tell whether the node is locked",
		Remedy: "tell an administrator: the node may have been changed",
	}

	hostCertificateWrong = fault.Code{
		Name: "host-certificate-wrong",
		Kind: fault.Denied,
		Text: "the server that answers is not node {node}: {why}",
		Remedy: "log in again to get the current authorities: tsh login; if that does not help, tell " +
			"an administrator",
	}

	nodeHandshakeInterrupted = fault.Code{
		Name:   "node-handshake-interrupted",
		Kind:   fault.Unavailable,
		Text:   "the connection to node {node} was interrupted: {why}",
		Remedy: "try again; if that does not help, check the log of threshold-node on the node",
	}

	nodeSilent = fault.Code{
		Name:   "node-silent",
		Kind:   fault.Unavailable,
		Text:   "node {node} does not answer",
		Remedy: "check that the machine runs, then try again",
	}

	remoteOutputUnwritable = fault.Code{
		Name:   "remote-output-unwritable",
		Kind:   fault.Internal,
		Text:   "cannot write the output of the remote command: {why}",
		Remedy: "check where standard output goes",
	}

	connectionLost = fault.Code{
		Name:   "connection-lost",
		Kind:   fault.Unavailable,
		Text:   "the connection to the node was lost",
		Remedy: "connect again; if an administrator ended it, tsh status shows what you may still do",
	}

	nodeLoginRefused = fault.Code{
		Name:   "node-login-refused",
		Kind:   fault.Denied,
		Text:   "node {node} does not let you in as {login}: {why}",
		Remedy: "{hint}",
	}

	nodeEndedConnection = fault.Code{
		Name:   "node-ended-connection",
		Kind:   fault.Unavailable,
		Text:   "the node ended the connection: {why}",
		Remedy: "{hint}",
	}

	sessionRefused = fault.Code{
		Name:   "session-refused",
		Kind:   fault.Denied,
		Text:   "the node refused to open a session: {why}",
		Remedy: "{hint}",
	}
)
