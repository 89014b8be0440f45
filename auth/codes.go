package auth

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	authConfigIncomplete = fault.Code{
		Name:   "auth-config-incomplete",
		Kind:   fault.Internal,
		Text:   "the data folder, the listener or the log is missing",
		Remedy: "report this defect",
	}

	authDataUnreadable = fault.Code{
		Name:   "auth-data-unreadable",
		Kind:   fault.Internal,
		Text:   "the data folder {folder} cannot be read",
		Remedy: "check its owner and permissions",
	}

	authRunTwice = fault.Code{
		Name:   "auth-run-twice",
		Kind:   fault.Internal,
		Text:   "this server was run before",
		Remedy: "make a new one",
	}

	clusterExists = fault.Code{
		Name:   "cluster-exists",
		Kind:   fault.Conflict,
		Text:   "there is a cluster in {folder} already",
		Remedy: "start without --bootstrap",
	}

	clusterMissing = fault.Code{
		Name:   "cluster-missing",
		Kind:   fault.NotFound,
		Text:   "there is no cluster in {folder} yet",
		Remedy: bootstrapRemedy,
	}

	firstProxyExists = fault.Code{
		Name:   "first-proxy-exists",
		Kind:   fault.Denied,
		Text:   "this cluster has a proxy already: {proxy}",
		Remedy: "log in through it, then run: tsh token create --kind proxy",
	}

	replicaIDInvalid = fault.Code{
		Name:   "replica-id-invalid",
		Kind:   fault.Invalid,
		Text:   "the replica id: {why}",
		Remedy: "give auth.replica a lower-case host name",
	}

	rootKeyHomeless = fault.Code{
		Name: "root-key-homeless",
		Kind: fault.Invalid,
		Text: "a new cluster needs a file for its root key, which no server keeps",
		Remedy: "add --root-key-out FILE, with --root-key-recipient age1… or a passphrase, " +
			"and keep the file away from the servers",
	}
)
