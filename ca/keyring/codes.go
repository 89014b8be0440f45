package keyring

import "github.com/threshold-access/threshold/internal/fault"

const (
	opOpen     = "keyring.Open"
	opOpenSeal = "keyring.OpenSeal"
	opGenerate = "keyring.Generate"
	opSecret   = "keyring.Secret"
)

// The errors of this package.
var (
	authorityNone = fault.Code{
		Name:   "authority-none",
		Kind:   fault.Invalid,
		Text:   "there is no authority {name}",
		Remedy: "name one of: user-ssh, host-ssh, user-x509, service-x509, rules",
	}

	authorityUnknown = fault.Code{
		Name: "keyring-authority-unknown",
		Kind: fault.Invalid,
		Text: "this program does not know the authority {authority} of the stored keyring, which " +
			"is critical",
		Remedy: "start the newer release of threshold that wrote it",
	}

	clusterNameUnusable = fault.Code{
		Name:   "cluster-name-unusable",
		Kind:   fault.Invalid,
		Text:   "the cluster name is not usable: {why}",
		Remedy: "choose a lower-case domain name such as access.example.com",
	}

	keyringDamaged = fault.Code{
		Name:   "keyring-damaged",
		Kind:   fault.Internal,
		Text:   "the stored keyring is damaged: {what}",
		Remedy: "restore the auth store from a backup",
	}

	keyringExists = fault.Code{
		Name:   "keyring-exists",
		Kind:   fault.Conflict,
		Text:   "this cluster exists already",
		Remedy: "start without --bootstrap",
	}

	keyringMissing = fault.Code{
		Name:   "keyring-missing",
		Kind:   fault.NotFound,
		Text:   "this cluster has no keys yet",
		Remedy: "run once: threshold start --bootstrap FILE --root-key-out FILE",
	}

	sealFileExists = fault.Code{
		Name:   "seal-file-exists",
		Kind:   fault.Conflict,
		Text:   "the seal key file {file} exists already",
		Remedy: "keep it: what it has sealed opens with no other key",
	}

	sealFileMissing = fault.Code{
		Name:   "seal-file-missing",
		Kind:   fault.NotFound,
		Text:   "the seal key file {file} cannot be opened",
		Remedy: "put the seal key there, as a plain file of this account",
	}

	sealFileNoKey = fault.Code{
		Name:   "seal-file-no-key",
		Kind:   fault.Invalid,
		Text:   "the file {file} is not a seal key",
		Remedy: "restore the seal key from its backup",
	}

	sealFileNotWritten = fault.Code{
		Name:   "seal-file-not-written",
		Kind:   fault.Internal,
		Text:   "the seal key file {file} cannot be written",
		Remedy: "check the folder, the free space and the permissions of {file}",
	}

	sealFileUnreadable = fault.Code{
		Name:   "seal-file-unreadable",
		Kind:   fault.Internal,
		Text:   "the seal key file {file} cannot be read",
		Remedy: "check the disk",
	}

	sealFileUnsafe = fault.Code{
		Name:   "seal-file-unsafe",
		Kind:   fault.Denied,
		Text:   "the seal key file {file} is not safe to use: {why}",
		Remedy: "make it a file of this account with mode 0600: {file}",
	}

	sealForeign = fault.Code{
		Name:   "seal-foreign",
		Kind:   fault.Invalid,
		Text:   "the seal {seal} does not open this secret: it is another key, or the secret was altered",
		Remedy: "configure the seal key that this cluster was created with",
	}

	sealKeyUnusable = fault.Code{
		Name:   "seal-key-unusable",
		Kind:   fault.Internal,
		Text:   "the seal key cannot be used",
		Remedy: "make a new seal key and restore from a backup",
	}

	sealUnknown = fault.Code{
		Name:   "seal-unknown",
		Kind:   fault.Invalid,
		Text:   "the key of the seal {seal} is none that this cluster is sealed with; known is {known}",
		Remedy: "configure the seal key that this cluster was created with",
	}

	sealURIInvalid = fault.Code{
		Name:   "seal-uri-invalid",
		Kind:   fault.Invalid,
		Text:   "the seal cannot be used: {why}",
		Remedy: "name a key file, such as file:///etc/threshold/seal.key",
	}

	secretForeign = fault.Code{
		Name:   "secret-foreign",
		Kind:   fault.Invalid,
		Text:   "the stored secret {name} is of another cluster or place, or was altered",
		Remedy: "restore the auth store from a backup",
	}

	secretNotSealed = fault.Code{
		Name:   "secret-not-sealed",
		Kind:   fault.Internal,
		Text:   "a secret cannot be encrypted: the data key is not open",
		Remedy: "restart auth",
	}
)
