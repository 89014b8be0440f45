package tsh

import (
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/sshclient"
)

// The errors of this package.
var (
	agentNotRunning = fault.Code{
		Name:   "agent-not-running",
		Kind:   fault.Invalid,
		Text:   "there is no ssh-agent to forward: SSH_AUTH_SOCK is not set",
		Remedy: "start one with: eval $(ssh-agent); or leave -A out",
	}

	applyFileMissing = fault.Code{
		Name:   "apply-file-missing",
		Kind:   fault.Invalid,
		Text:   "no file is given",
		Remedy: "run: tsh apply -f FILE, or -f - for standard input",
	}

	applyFileNotFound = fault.Code{
		Name:   "apply-file-not-found",
		Kind:   fault.Invalid,
		Text:   "{why}",
		Remedy: "check the path",
	}

	applyFileUnreadable = fault.Code{
		Name:   "apply-file-unreadable",
		Kind:   fault.Invalid,
		Text:   "{file} cannot be read: {why}",
		Remedy: "check the path",
	}

	argumentsNotExpected = fault.Code{
		Name:   "arguments-not-expected",
		Kind:   fault.Invalid,
		Text:   "{command} takes no arguments, but got \"{argument}\"",
		Remedy: "{hint}",
	}

	authNodeNameInvalid = fault.Code{
		Name:   "auth-node-name-invalid",
		Kind:   fault.Invalid,
		Text:   "the auth service sent a node name that is not valid",
		Remedy: "show this message to an administrator",
	}

	caFileEmpty = fault.Code{
		Name:   "ca-file-empty",
		Kind:   fault.Invalid,
		Text:   "--ca-file {file} contains no certificate in PEM format",
		Remedy: "give the file that the administrator named",
	}

	caFileUnreadable = fault.Code{
		Name:   "ca-file-unreadable",
		Kind:   fault.Invalid,
		Text:   "--ca-file cannot be read: {why}",
		Remedy: "check the path",
	}

	callbackListenFailed = fault.Code{
		Name:   "callback-listen-failed",
		Kind:   fault.Unavailable,
		Text:   "cannot listen on 127.0.0.1 for the answer of the browser: {why}",
		Remedy: "check this machine's firewall and limits",
	}

	clockWrong = fault.Code{
		Name:   "clock-wrong",
		Kind:   fault.Invalid,
		Text:   "this machine's clock is {gap} {side} the cluster's (here {here}, there {there})",
		Remedy: "set this machine's clock, then log in again",
	}

	clusterNameInvalid = fault.Code{
		Name:   "cluster-name-invalid",
		Kind:   fault.Invalid,
		Text:   "--cluster={cluster} is not the name of a cluster",
		Remedy: "the clusters of your logins: tsh status",
	}

	clusterNotNamed = fault.Code{
		Name:   "cluster-not-named",
		Kind:   fault.Invalid,
		Text:   "the proxy at {proxy} is of the cluster {cluster}, not of {wanted}",
		Remedy: "leave --cluster out, or name another proxy",
	}

	clusterWithoutProxy = fault.Code{
		Name:   "cluster-without-proxy",
		Kind:   fault.NotFound,
		Text:   "no proxy of the cluster {cluster} is known any more",
		Remedy: "run: tsh login --cluster {cluster} --proxy HOST",
	}

	clusterChanged = fault.Code{
		Name: "cluster-changed",
		Kind: fault.Denied,
		Text: "THE CLUSTER AT {proxy} IS NOT THE ONE YOU LOGGED IN TO BEFORE.\n  kept:  {kept}\n  " +
			"shown: {shown}\nEither the cluster was rebuilt, or somebody intercepts the " +
			"connection",
		Remedy: "ask an administrator for the pin; if it is the shown one: tsh login --proxy {proxy} " +
			"--pin {shown}",
	}

	commandSFTPMissing = fault.Code{
		Name: "command-sftp-missing",
		Kind: fault.Invalid,
		Text: "tsh has no sftp command",
		Remedy: "copy files with tsh scp, or use OpenSSH's sftp: tsh config > ~/.ssh/threshold.conf, " +
			"then sftp -F ~/.ssh/threshold.conf LOGIN@NODE.CLUSTER",
	}

	completionShellMissing = fault.Code{
		Name:   "completion-shell-missing",
		Kind:   fault.Invalid,
		Text:   "tsh completion needs the name of one shell: bash, zsh or fish",
		Remedy: "for example: tsh completion bash",
	}

	connectionEscaped = fault.Code{
		Name:   "connection-escaped",
		Kind:   fault.Unavailable,
		Text:   "the connection was ended by {escape}",
		Remedy: "connect again when you like",
	}

	connectionInterrupted = fault.Code{
		Name:   "connection-interrupted",
		Kind:   fault.Unavailable,
		Text:   "the connection was interrupted",
		Remedy: "connect again",
	}

	copyAddressInvalid = fault.Code{
		Name:   "copy-address-invalid",
		Kind:   fault.Invalid,
		Text:   "{why}",
		Remedy: "{hint}",
	}

	copyBetweenNodes = fault.Code{
		Name:   "copy-between-nodes",
		Kind:   fault.Invalid,
		Text:   "tsh cannot copy from one node to another: nodes do not reach each other through tsh",
		Remedy: "copy to this machine first, then from here",
	}

	copyPathEmpty = fault.Code{
		Name:   "copy-path-empty",
		Kind:   fault.Invalid,
		Text:   "a path is empty",
		Remedy: "{hint}",
	}

	copyTargetNotFolder = fault.Code{
		Name:   "copy-target-not-folder",
		Kind:   fault.Invalid,
		Text:   "{path} is not a folder on this machine",
		Remedy: "create it first: mkdir -p {path}",
	}

	copyWithoutNode = fault.Code{
		Name:   "copy-without-node",
		Kind:   fault.Invalid,
		Text:   "neither the source nor the destination is on a node",
		Remedy: "write [LOGIN@]NODE:PATH for the one that is on a node, or use cp",
	}

	destinationLoginInvalid = fault.Code{
		Name:   "destination-login-invalid",
		Kind:   fault.Invalid,
		Text:   "{why}",
		Remedy: "write LOGIN@NODE, for example ubuntu@web-1",
	}

	escapeInvalid = fault.Code{
		Name:   "escape-invalid",
		Kind:   fault.Invalid,
		Text:   "-e {value} is not one character",
		Remedy: "give one character, or none",
	}

	filterMalformed = fault.Code{
		Name:   "filter-malformed",
		Kind:   fault.Invalid,
		Text:   "\"{filter}\" is not LABEL=VALUE",
		Remedy: "give each label a value, as env=prod or name='web-*'",
	}

	filterRepeated = fault.Code{
		Name:   "filter-repeated",
		Kind:   fault.Invalid,
		Text:   "label {label} is given twice",
		Remedy: "give each label once; VALUE can contain wildcards",
	}

	flagAfterNode = fault.Code{
		Name:   "flag-after-node",
		Kind:   fault.Invalid,
		Text:   "{flag} is after the node, where the command begins",
		Remedy: "write flags before the node: tsh ssh [FLAGS] NODE [COMMAND…]",
	}

	flagAgentInvalid = fault.Code{
		Name:   "flag-agent-invalid",
		Kind:   fault.Invalid,
		Text:   "--add-keys-to-agent={value} is not known",
		Remedy: "use auto, yes or no",
	}

	flagBrowserInvalid = fault.Code{
		Name:   "flag-browser-invalid",
		Kind:   fault.Invalid,
		Text:   "--browser={value} is not known",
		Remedy: "use --browser=none, or leave it out",
	}

	flagBrowserWithHeadless = fault.Code{
		Name:   "flag-browser-with-headless",
		Kind:   fault.Invalid,
		Text:   "--headless opens no browser, so --browser has no meaning with it",
		Remedy: "leave one of them out",
	}

	flagDurationInvalid = fault.Code{
		Name:   "flag-duration-invalid",
		Kind:   fault.Invalid,
		Text:   "\"{value}\" is not a duration",
		Remedy: "write a number and a unit, as 90s or 15m",
	}

	flagUnknown = fault.Code{
		Name:   "flag-unknown",
		Kind:   fault.Invalid,
		Text:   "{command} has no flag -{flag}",
		Remedy: "{hint}",
	}

	flagsConflict = fault.Code{
		Name:   "flags-conflict",
		Kind:   fault.Invalid,
		Text:   "{first} and {second} contradict each other",
		Remedy: "give one of them",
	}

	flagsTerminalConflict = fault.Code{
		Name:   "flags-terminal-conflict",
		Kind:   fault.Invalid,
		Text:   "-t and -T contradict each other",
		Remedy: "give one of them, or none",
	}

	lockConfirmationsUnknown = fault.Code{
		Name:   "lock-confirmations-unknown",
		Kind:   fault.Unavailable,
		Text:   "the locks are changed, but which machines have confirmed that is not known: {why}",
		Remedy: "{hint}",
	}

	lockForInvalid = fault.Code{
		Name:   "lock-for-invalid",
		Kind:   fault.Invalid,
		Text:   "--for={for}: a lock must hold for some time",
		Remedy: "write how long, as --for 2h, or leave it out: the lock then holds until it is removed",
	}

	lockKindUnknown = fault.Code{
		Name:   "lock-kind-unknown",
		Kind:   fault.Invalid,
		Text:   "\"{kind}\" is not a kind of lock",
		Remedy: "the kinds are {kinds}",
	}

	lockNameMissing = fault.Code{
		Name:   "lock-name-missing",
		Kind:   fault.Invalid,
		Text:   "which {kind}? the name is missing",
		Remedy: "{hint}",
	}

	lockProxyNarrowed = fault.Code{
		Name: "lock-proxy-narrowed",
		Kind: fault.Invalid,
		Text: "a lock of proxy {proxy} is of the whole machine: of the flags that narrow a lock, only " +
			"--since is for it",
		Remedy: "to lock what some users do through it, name them: tsh lock user NAME --via-proxy {proxy}",
	}

	lockTimeInvalid = fault.Code{
		Name:   "lock-time-invalid",
		Kind:   fault.Invalid,
		Text:   "\"{value}\" is not a time",
		Remedy: "write a time as 2026-03-01T12:00:00Z, a duration back from now as 2h, or now",
	}

	loginAmbiguous = fault.Code{
		Name:   "login-ambiguous",
		Kind:   fault.Invalid,
		Text:   "you have several logins, so name one of them: {logins}",
		Remedy: "write LOGIN@NODE, for example {example}@NODE",
	}

	loginAnswerInvalid = fault.Code{
		Name:   "login-answer-invalid",
		Kind:   fault.Invalid,
		Text:   "the answer of the auth service is not valid: {why}",
		Remedy: "log in again; if that does not help, show this message to an administrator",
	}

	loginBrowserTimeout = fault.Code{
		Name:   "login-browser-timeout",
		Kind:   fault.Expired,
		Text:   "the login in the browser took longer than {limit}",
		Remedy: "run the command again",
	}

	loginCertificateRefused = fault.Code{
		Name:   "login-certificate-refused",
		Kind:   fault.Unauthenticated,
		Text:   "the proxy does not accept the certificate of this login",
		Remedy: "run: tsh login; if that fails too, check the address",
	}

	loginNoneAnywhere = fault.Code{
		Name:   "login-none-anywhere",
		Kind:   fault.NotFound,
		Text:   "not logged in anywhere",
		Remedy: "run: tsh login --proxy HOST",
	}

	loginsNoneForNodes = fault.Code{
		Name:   "logins-none-for-nodes",
		Kind:   fault.Denied,
		Text:   "no role of {user} lets you log in to any node",
		Remedy: "ask an administrator for a role, then run: tsh login",
	}

	nodeConnectionInterrupted = fault.Code{
		Name:   "node-connection-interrupted",
		Kind:   fault.Unavailable,
		Text:   "the connection to node {node} was interrupted: {why}",
		Remedy: "connect again",
	}

	nodeLocked = fault.Code{
		Name:   "node-locked",
		Kind:   fault.Denied,
		Text:   "node {machine} may not be used: {reason}",
		Remedy: "{hint}",
	}

	nodeNameAmbiguous = fault.Code{
		Name:   "node-name-ambiguous",
		Kind:   fault.Conflict,
		Text:   "node name {node} is ambiguous: {names}",
		Remedy: "use the whole name, for example {example}",
	}

	nodeNameInvalid = fault.Code{
		Name:   "node-name-invalid",
		Kind:   fault.Invalid,
		Text:   "\"{node}\" is not a node name",
		Remedy: "see: tsh ls",
	}

	nodeNameNotWhole = fault.Code{
		Name:   "node-name-not-whole",
		Kind:   fault.NotFound,
		Text:   "there is no node {node}",
		Remedy: "its whole name is {whole_name}; use {whole_name}.{cluster}",
	}

	nodeOffline = fault.Code{
		Name:   "node-offline",
		Kind:   fault.Unavailable,
		Text:   "node {node} is offline, {seen}",
		Remedy: "check that the machine and its threshold-node service run, then try again",
	}

	nodeUnknown = fault.Code{
		Name:   "node-unknown",
		Kind:   fault.NotFound,
		Text:   "there is no node {node} that you may reach",
		Remedy: "see: tsh ls",
	}

	pinMalformed = fault.Code{
		Name:   "pin-malformed",
		Kind:   fault.Invalid,
		Text:   "{why}",
		Remedy: "copy the whole pin: sha256:…",
	}

	programPathUnknown = fault.Code{
		Name:   "program-path-unknown",
		Kind:   fault.Internal,
		Text:   "cannot find the path of the tsh program",
		Remedy: "run tsh by its absolute path",
	}

	proxyCertificateExpired = fault.Code{
		Name:   "proxy-certificate-expired",
		Kind:   fault.Expired,
		Text:   "the server's {why}",
		Remedy: hintClock,
	}

	proxyLocked = fault.Code{
		Name:   "proxy-locked",
		Kind:   fault.Denied,
		Text:   "proxy {machine} may not be used: {reason}",
		Remedy: "{hint}; or name another proxy: --proxy HOST",
	}

	proxyMissing = fault.Code{
		Name:   "proxy-missing",
		Kind:   fault.Invalid,
		Text:   "which cluster? this is the first login, and --proxy is missing",
		Remedy: "run: tsh login --proxy HOST",
	}

	proxyNotThreshold = fault.Code{
		Name:   "proxy-not-threshold",
		Kind:   fault.Invalid,
		Text:   "the server at {proxy} is not a Threshold proxy",
		Remedy: "check the address",
	}

	proxyPinWrong = fault.Code{
		Name: "proxy-pin-wrong",
		Kind: fault.Denied,
		Text: "{proxy} is not the cluster with {pin}: the cluster was rebuilt, or somebody " +
			"intercepts the connection",
		Remedy: "ask an administrator for the cluster's pin, then run: tsh login --proxy {proxy} " +
			"--pin sha256:…",
	}

	proxyUnreachable = fault.Code{
		Name:   "proxy-unreachable",
		Kind:   fault.Unavailable,
		Text:   "the proxy {proxy} cannot be reached: {why}",
		Remedy: "check the address and the network, then try again",
	}

	resourceKindUnknown = fault.Code{
		Name:   "resource-kind-unknown",
		Kind:   fault.Invalid,
		Text:   "\"{kind}\" is not a kind of resource",
		Remedy: "known kinds: {kinds}",
	}

	resourceNameMissing = fault.Code{
		Name:   "resource-name-missing",
		Kind:   fault.Invalid,
		Text:   "the name is missing in \"{argument}\"",
		Remedy: "write KIND/NAME",
	}

	resourceNamesTwo = fault.Code{
		Name:   "resource-names-two",
		Kind:   fault.Invalid,
		Text:   "\"{first}\" and \"{second}\" are both names",
		Remedy: "write KIND NAME or KIND/NAME",
	}

	resourceUnknown = fault.Code{
		Name:   "resource-unknown",
		Kind:   fault.NotFound,
		Text:   "there is no {kind} {name}",
		Remedy: "see: tsh get {resource}",
	}

	rmNameMissing = fault.Code{
		Name:   "rm-name-missing",
		Kind:   fault.Invalid,
		Text:   "rm needs the name of one {kind}",
		Remedy: "see: tsh get {resource}",
	}

	sshOptionMalformed = fault.Code{
		Name:   "ssh-option-malformed",
		Kind:   fault.Invalid,
		Text:   "-o \"{option}\" is not an option",
		Remedy: "write OPTION=VALUE, for example -o RequestTTY=yes",
	}

	sshOptionRemotecommand = fault.Code{
		Name:   "ssh-option-remotecommand",
		Kind:   fault.Invalid,
		Text:   "tsh does not support the option remotecommand",
		Remedy: "write the command after the node",
	}

	sshOptionUnsupported = fault.Code{
		Name:   "ssh-option-unsupported",
		Kind:   fault.Invalid,
		Text:   "tsh does not support the option {option}",
		Remedy: "leave it out, or use ssh itself, see: tsh config",
	}

	stdoutUnwritable = fault.Code{
		Name:   "stdout-unwritable",
		Kind:   fault.Internal,
		Text:   "cannot write to standard output",
		Remedy: "check where standard output goes",
	}

	subsystemMissing = fault.Code{
		Name:   "subsystem-missing",
		Kind:   fault.Invalid,
		Text:   "-s needs the name of one subsystem",
		Remedy: "for example: tsh ssh -s NODE sftp",
	}

	tokenKindUnknown = fault.Code{
		Name:   "token-kind-unknown",
		Kind:   fault.Invalid,
		Text:   "--kind={kind} is not a kind of machine that joins with a token",
		Remedy: "use node or proxy",
	}

	tokenLabelInvalid = fault.Code{
		Name:   "token-label-invalid",
		Kind:   fault.Invalid,
		Text:   "--label: {why}",
		Remedy: "write --label KEY=VALUE, as --label env=prod",
	}

	tokenTTLOutOfRange = fault.Code{
		Name:   "token-ttl-out-of-range",
		Kind:   fault.Invalid,
		Text:   "--ttl={ttl} is not between {least} and {most}",
		Remedy: "choose a duration in this range",
	}

	webCertificateExpired = fault.Code{
		Name:   "web-certificate-expired",
		Kind:   fault.Expired,
		Text:   "the web certificate of {proxy} is not valid now (this machine's clock says {now})",
		Remedy: hintClock,
	}

	webCertificateUntrusted = fault.Code{
		Name: "web-certificate-untrusted",
		Kind: fault.Denied,
		Text: "the web certificate of {proxy} is signed by an authority that this machine does not " +
			"know",
		Remedy: "ask an administrator for the cluster's pin and add --pin sha256:…, or for the " +
			"file of the authority and add --ca-file FILE",
	}

	webCertificateWrongName = fault.Code{
		Name:   "web-certificate-wrong-name",
		Kind:   fault.Denied,
		Text:   "the web certificate of {proxy} is for another name",
		Remedy: "use the name that the administrator gave",
	}

	commandRefused = fault.Code{
		Name:   "command-refused",
		Kind:   fault.Denied,
		Text:   "the node refused to run the command",
		Remedy: sshclient.HintAskForRole,
	}

	stdioForwardRefused = fault.Code{
		Name:   "stdio-forward-refused",
		Kind:   fault.Denied,
		Text:   "the node refused a connection to {target}: {why}",
		Remedy: "{hint}",
	}

	transferRefused = fault.Code{
		Name:   "transfer-refused",
		Kind:   fault.Denied,
		Text:   "the node refused the file transfer: {why}",
		Remedy: "{hint}",
	}

	requestFileUnwritten = fault.Code{
		Name:   "root-request-unwritten",
		Kind:   fault.Invalid,
		Text:   "the request cannot be written to {file}: {why}",
		Remedy: "name a new file in a folder of yours",
	}
)
