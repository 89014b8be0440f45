package server

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	bootstrapWithoutAuth = fault.Code{
		Name:   "bootstrap-without-auth",
		Kind:   fault.Invalid,
		Text:   "--bootstrap is for a server that runs auth",
		Remedy: "add auth to the configuration, or leave out --bootstrap",
	}

	caFileUnwritable = fault.Code{
		Name:   "ca-file-unwritable",
		Kind:   fault.Exhausted,
		Text:   "cannot write ca.pem",
		Remedy: "check the disk that holds spec.data",
	}

	componentsMissing = fault.Code{
		Name:   "components-missing",
		Kind:   fault.Invalid,
		Text:   "there is no part to run",
		Remedy: "configure auth, proxy or node",
	}

	dataFolderOfOtherAccount = fault.Code{
		Name: "data-folder-of-other-account",
		Kind: fault.Denied,
		Text: "the data folder {folder} belongs to the account {owner}, and this is root",
		Remedy: "run it as that account: runuser -u {owner} -- threshold start …; or give the " +
			"folder to root: chown -R root {folder}",
	}

	firstProxyWithoutAuth = fault.Code{
		Name:   "first-proxy-without-auth",
		Kind:   fault.Invalid,
		Text:   "--first-proxy is for a server that runs auth",
		Remedy: "run it on the machine whose configuration has an auth section",
	}

	hostNameUnreadable = fault.Code{
		Name:   "host-name-unreadable",
		Kind:   fault.Invalid,
		Text:   "this machine's host name cannot be read",
		Remedy: "set spec.proxy.name in the configuration",
	}

	listenAddressDenied = fault.Code{
		Name:   "listen-address-denied",
		Kind:   fault.Denied,
		Text:   "this account may not listen on {address}",
		Remedy: "give the program CAP_NET_BIND_SERVICE, or {hint}",
	}

	listenAddressUnusable = fault.Code{
		Name:   "listen-address-unusable",
		Kind:   fault.Invalid,
		Text:   "cannot listen on {address}",
		Remedy: "{hint}",
	}

	listenAddressUsed = fault.Code{
		Name:   "listen-address-used",
		Kind:   fault.Conflict,
		Text:   "{address} is in use by another program",
		Remedy: "end that program, or {hint}",
	}

	serverConfigUnknown = fault.Code{
		Name:   "server-config-unknown",
		Kind:   fault.NotFound,
		Text:   "there is no file {file}",
		Remedy: "see docs/cli.md for its contents",
	}

	serverConfigUnreadable = fault.Code{
		Name:   "server-config-unreadable",
		Kind:   fault.Invalid,
		Text:   "cannot read {file}",
		Remedy: "check the file's permissions",
	}

	serverIncomplete = fault.Code{
		Name:   "server-incomplete",
		Kind:   fault.Internal,
		Text:   "the data folder or the log is missing",
		Remedy: "report this defect",
	}

	webCertificateInvalid = fault.Code{
		Name:   "web-certificate-invalid",
		Kind:   fault.Invalid,
		Text:   "the web certificate cannot be used: {why}",
		Remedy: "check spec.proxy.cert_file and key_file",
	}

	passphraseUnknown = fault.Code{
		Name:   "passphrase-unknown",
		Kind:   fault.Invalid,
		Text:   "there is no terminal to ask for the passphrase of the root key",
		Remedy: "add --root-key-recipient age1… or --root-key-passphrase-file FILE",
	}

	passphraseUnread = fault.Code{
		Name:   "passphrase-unread",
		Kind:   fault.Internal,
		Text:   "the passphrase could not be read from the terminal",
		Remedy: "try again, or add --root-key-passphrase-file FILE",
	}

	passphrasesDiffer = fault.Code{
		Name:   "passphrases-differ",
		Kind:   fault.Invalid,
		Text:   "the two passphrases differ",
		Remedy: "try again",
	}

	rootKeyOutMissing = fault.Code{
		Name:   "root-key-out-missing",
		Kind:   fault.Invalid,
		Text:   "the root key has a recipient or passphrase, but no file",
		Remedy: "add --root-key-out FILE",
	}

	answerUnwritten = fault.Code{
		Name:   "root-answer-unwritten",
		Kind:   fault.Invalid,
		Text:   "the answer cannot be written to {file}: {why}",
		Remedy: "name a new file in a folder of yours",
	}

	identityMissing = fault.Code{
		Name:   "root-key-identity-missing",
		Kind:   fault.Invalid,
		Text:   "{file} is encrypted for a recipient of age",
		Remedy: "add --identity FILE",
	}

	signingRefused = fault.Code{
		Name:   "root-signing-refused",
		Kind:   fault.Denied,
		Text:   "nothing was signed",
		Remedy: "make a new request if you do not know this one: tsh root request",
	}

	signingUnconfirmed = fault.Code{
		Name:   "root-signing-unconfirmed",
		Kind:   fault.Invalid,
		Text:   "there is no terminal to ask whether to sign this",
		Remedy: "read what is above, then add --yes",
	}
)
