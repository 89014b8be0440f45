package rootkey

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	fileExists = fault.Code{
		Name: "root-key-file-exists",
		Kind: fault.Conflict,
		Text: "the root key file {file} exists already, and is never overwritten",
		Remedy: "if an attempt to create this cluster was cut short, remove the file and try again; " +
			"otherwise name another one",
	}

	fileForeign = fault.Code{
		Name:   "root-key-file-foreign",
		Kind:   fault.Invalid,
		Text:   "the file {file} is not a root key file",
		Remedy: "name the file that --root-key-out wrote when the cluster was created",
	}

	fileLocked = fault.Code{
		Name:   "root-key-file-locked",
		Kind:   fault.Denied,
		Text:   "the passphrase or identity does not open {file}",
		Remedy: "use the one that the file was written with",
	}

	fileMissing = fault.Code{
		Name:   "root-key-file-missing",
		Kind:   fault.NotFound,
		Text:   "the root key file {file} cannot be read",
		Remedy: "bring the file that --root-key-out wrote when the cluster was created",
	}

	fileNotWritten = fault.Code{
		Name:   "root-key-file-not-written",
		Kind:   fault.Internal,
		Text:   "the root key file {file} cannot be written",
		Remedy: "check the folder, the free space and the permissions of {file}",
	}

	identitiesInvalid = fault.Code{
		Name:   "root-key-identity-invalid",
		Kind:   fault.Invalid,
		Text:   "the passphrase is empty, or the identity file is not one of age",
		Remedy: "name a file that age-keygen wrote, or enter the passphrase",
	}

	passphraseShort = fault.Code{
		Name:   "root-key-passphrase-short",
		Kind:   fault.Invalid,
		Text:   "the passphrase of the root key is shorter than {min} characters",
		Remedy: "choose several random words, and keep them apart from the file",
	}

	protectionInvalid = fault.Code{
		Name:   "root-key-protection-invalid",
		Kind:   fault.Invalid,
		Text:   "the root key cannot be protected this way: {why}",
		Remedy: "name recipients of age with --root-key-recipient, or a passphrase",
	}
)
