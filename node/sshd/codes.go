package sshd

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	accessDenied = fault.Code{
		Name:   "access-denied",
		Kind:   fault.Denied,
		Text:   "{reason}",
		Remedy: "{hint}",
	}

	accountNameMalformed = fault.Code{
		Name:   "account-name-malformed",
		Kind:   fault.Invalid,
		Text:   "the login is not a valid account name",
		Remedy: "name an account of the node, as in ssh ACCOUNT@NODE",
	}

	agentRequestedLate = fault.Code{
		Name:   "agent-requested-late",
		Kind:   fault.Conflict,
		Text:   "the program of this session was requested already",
		Remedy: "request the agent before the program",
	}

	certificateExtensionMissing = fault.Code{
		Name: "certificate-extension-missing",
		Kind: fault.Denied,
		Text: "the certificate does not have the extension {extension}, which the {kind} \"{name}\" " +
			"needs",
		Remedy: "ask an administrator for a role that grants it, then run: tsh login",
	}

	certificateNotOffered = fault.Code{
		Name:   "certificate-not-offered",
		Kind:   fault.Unauthenticated,
		Text:   "this node accepts only certificates; your client offered none",
		Remedy: "run: tsh login, then name the certificate to your client, or connect with: tsh ssh",
	}

	commandTooLong = fault.Code{
		Name:   "command-too-long",
		Kind:   fault.Invalid,
		Text:   "the command has {bytes} bytes, more than {most}",
		Remedy: "copy a script to the node and run it",
	}

	nodeClockWrong = fault.Code{
		Name:   "node-clock-wrong",
		Kind:   fault.Denied,
		Text:   "on this node, {why}",
		Remedy: "ask an administrator to set the node's clock",
	}

	nodeRulesUnusable = fault.Code{
		Name:   "node-rules-unusable",
		Kind:   fault.Unavailable,
		Text:   "on this node, {why}",
		Remedy: "ask an administrator to check the node's clock and its connection to the cluster",
	}

	nodeStopping = fault.Code{
		Name:   "node-stopping",
		Kind:   fault.Unavailable,
		Text:   "this node is stopping",
		Remedy: "try again in a minute",
	}

	nodeWithoutRules = fault.Code{
		Name:   "node-without-rules",
		Kind:   fault.Unavailable,
		Text:   "this node has not received its access rules yet",
		Remedy: "try again in a minute",
	}

	programNone = fault.Code{
		Name:   "program-none",
		Kind:   fault.Invalid,
		Text:   "there is no program to send a break to",
		Remedy: "start a shell first",
	}

	programRunning = fault.Code{
		Name:   "program-running",
		Kind:   fault.Conflict,
		Text:   "this session runs a program already",
		Remedy: "open another session",
	}

	requestUnknown = fault.Code{
		Name:   "request-unknown",
		Kind:   fault.Denied,
		Text:   "this node does not support the {kind} \"{name}\"",
		Remedy: "use a shell, a command, sftp or scp",
	}

	requestUnsupported = fault.Code{
		Name:   "request-unsupported",
		Kind:   fault.Denied,
		Text:   "{why}",
		Remedy: "{hint}",
	}

	sessionsConnectionFull = fault.Code{
		Name:   "sessions-connection-full",
		Kind:   fault.Exhausted,
		Text:   "this connection has {count} sessions already",
		Remedy: "end one, or open a new connection",
	}

	sessionsEndedByClient = fault.Code{
		Name:   "sessions-ended-by-client",
		Kind:   fault.Denied,
		Text:   "this connection accepts no further sessions",
		Remedy: "open a new connection",
	}

	sessionsUserFull = fault.Code{
		Name:   "sessions-user-full",
		Kind:   fault.Exhausted,
		Text:   "{user} has {held} sessions on {node}, and {rule} allows {bound}",
		Remedy: "end another session first",
	}

	signalUnknown = fault.Code{
		Name:   "signal-unknown",
		Kind:   fault.Invalid,
		Text:   "there is no such signal, or no program to send it to",
		Remedy: "use a signal of RFC 4254",
	}

	sshRequestMalformed = fault.Code{
		Name:   "ssh-request-malformed",
		Kind:   fault.Invalid,
		Text:   "the request {request} could not be read",
		Remedy: "update the SSH client",
	}

	terminalRequestedTwice = fault.Code{
		Name:   "terminal-requested-twice",
		Kind:   fault.Conflict,
		Text:   "this session has a terminal, or its program was requested already",
		Remedy: "request one terminal, before the program",
	}

	userCertificateExpired = fault.Code{
		Name:   "user-certificate-expired",
		Kind:   fault.Expired,
		Text:   "{why}",
		Remedy: "run: tsh login",
	}

	userCertificateInvalid = fault.Code{
		Name:   "user-certificate-invalid",
		Kind:   fault.Denied,
		Text:   "{why}",
		Remedy: "run: tsh login",
	}

	variableRefused = fault.Code{
		Name:   "variable-refused",
		Kind:   fault.Denied,
		Text:   "the variable {variable} is not one that clients may set",
		Remedy: "set it on the node",
	}

	certificateOfAnother = fault.Code{
		Name:   "certificate-of-another",
		Kind:   fault.Denied,
		Text:   "the newer certificate is of {user}, and the connection of {owner}",
		Remedy: "connect again as {user}",
	}

	certificateNotNewer = fault.Code{
		Name:   "certificate-not-newer",
		Kind:   fault.Invalid,
		Text:   "the certificate does not end later than the present one, which ends at {until}",
		Remedy: "run: tsh login",
	}

	certificatesTooMany = fault.Code{
		Name:   "certificates-too-many",
		Kind:   fault.Exhausted,
		Text:   "{most} certificates were shown on this connection already",
		Remedy: "connect again",
	}

	sessionDenied = fault.Code{
		Name:   "session-denied",
		Kind:   fault.Denied,
		Text:   "the session has ended: it is not allowed any more: {reason}",
		Remedy: "{hint}",
	}

	sessionIdle = fault.Code{
		Name:   "session-idle",
		Kind:   fault.Expired,
		Text:   "the session has ended: nothing was typed for {limit} ({rule})",
		Remedy: "connect again",
	}

	sessionTooLong = fault.Code{
		Name:   "session-too-long",
		Kind:   fault.Expired,
		Text:   "the session has ended: it may last {limit} ({rule})",
		Remedy: "connect again",
	}

	sessionEndedWithCertificate = fault.Code{
		Name:   "session-ended-with-certificate",
		Kind:   fault.Expired,
		Text:   "the session has ended with its certificate ({rule})",
		Remedy: "run: tsh login",
	}
)
