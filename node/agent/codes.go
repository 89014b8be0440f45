package agent

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	nodeConfigUnreadable = fault.Code{
		Name:   "node-config-unreadable",
		Kind:   fault.Invalid,
		Text:   "the configuration file {file} cannot be read: {why}",
		Remedy: "name another file with --config",
	}

	nodeHomeMissing = fault.Code{
		Name:   "node-home-missing",
		Kind:   fault.Invalid,
		Text:   "there is no home directory in which to keep keys",
		Remedy: "name a directory with --data",
	}

	nodeProxyMissing = fault.Code{
		Name: "node-proxy-missing",
		Kind: fault.Invalid,
		Text: "no proxy is configured",
		Remedy: "give the cluster's address, as --proxy proxy.example.com:443, or write " +
			"/etc/threshold/node.yaml",
	}

	tokenFileTooLarge = fault.Code{
		Name:   "token-file-too-large",
		Kind:   fault.Invalid,
		Text:   "the token file {file} is too large for a token",
		Remedy: "check --token-file",
	}

	tokenFileUnreadable = fault.Code{
		Name:   "token-file-unreadable",
		Kind:   fault.Invalid,
		Text:   "the token file {file} cannot be read: {why}",
		Remedy: "check --token-file",
	}
)
