package transfer

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	copyDiskFull = fault.Code{
		Name:   "copy-disk-full",
		Kind:   fault.Exhausted,
		Text:   "this machine's disk is full: {file} was not written",
		Remedy: "free disk space, then copy again; the previous file is unchanged",
	}

	copyFileFailed = fault.Code{
		Name:   "copy-file-failed",
		Kind:   fault.Invalid,
		Text:   "{file}: {why}",
		Remedy: "check the path and its permissions",
	}

	copyFileUnknown = fault.Code{
		Name:   "copy-file-unknown",
		Kind:   fault.NotFound,
		Text:   "{file} does not exist on this machine",
		Remedy: "check the path",
	}

	copyInterrupted = fault.Code{
		Name:   "copy-interrupted",
		Kind:   fault.Unavailable,
		Text:   "the transfer of {file} was interrupted: {why}",
		Remedy: "copy again; the previous file is unchanged",
	}

	copyLinksLooped = fault.Code{
		Name:   "copy-links-looped",
		Kind:   fault.Invalid,
		Text:   "{path} leads through {most} or more symbolic links on the node, perhaps in a loop",
		Remedy: "name the file itself",
	}

	copyNameUnsafe = fault.Code{
		Name:   "copy-name-unsafe",
		Kind:   fault.Denied,
		Text:   "the node sent the unsafe file name \"{name}\": tsh does not create it on this machine",
		Remedy: "copy this file by itself, to a name that you choose",
	}

	copyNodeDiskFull = fault.Code{
		Name:   "copy-node-disk-full",
		Kind:   fault.Exhausted,
		Text:   "the node's disk is full: {file} was not written",
		Remedy: "free disk space on the node, then copy again; the previous file is unchanged",
	}

	copyNodeFileDenied = fault.Code{
		Name:   "copy-node-file-denied",
		Kind:   fault.Denied,
		Text:   "the account on the node has no permission for {file}",
		Remedy: "use another path or login: LOGIN@NODE:PATH",
	}

	copyNodeFileFailed = fault.Code{
		Name:   "copy-node-file-failed",
		Kind:   fault.Invalid,
		Text:   "{file}: {why}",
		Remedy: "check the path on the node",
	}

	copyNodeFileUnknown = fault.Code{
		Name:   "copy-node-file-unknown",
		Kind:   fault.NotFound,
		Text:   "{file} does not exist on the node",
		Remedy: "check the path; without a leading / it is relative to the home folder",
	}

	copyNodeTargetIsFolder = fault.Code{
		Name:   "copy-node-target-is-folder",
		Kind:   fault.Invalid,
		Text:   "{path} is a folder on the node",
		Remedy: "name a file, or remove the folder",
	}

	copyNodeTargetNotFolder = fault.Code{
		Name:   "copy-node-target-not-folder",
		Kind:   fault.Invalid,
		Text:   "{target} is not a folder on the node",
		Remedy: "create it first: tsh ssh NODE mkdir -p PATH",
	}

	copySourceIsFolder = fault.Code{
		Name:   "copy-source-is-folder",
		Kind:   fault.Invalid,
		Text:   "{path} is a folder",
		Remedy: "add -r to copy folders",
	}

	copySourceIsRemoteFolder = fault.Code{
		Name:   "copy-source-is-remote-folder",
		Kind:   fault.Invalid,
		Text:   "{path} is a folder on the node",
		Remedy: "add -r to copy folders",
	}

	copyTargetForSeveral = fault.Code{
		Name:   "copy-target-for-several",
		Kind:   fault.Invalid,
		Text:   "{source} matches {count} files, but {target} is not a folder on this machine",
		Remedy: "create it first: mkdir -p {target}",
	}

	copyTreeTooDeep = fault.Code{
		Name:   "copy-tree-too-deep",
		Kind:   fault.Invalid,
		Text:   "folders on the node are nested more than {most} deep at {path}",
		Remedy: "copy a part of the tree at a time",
	}
)
