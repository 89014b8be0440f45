package demo

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	demoFolderUnusable = fault.Code{
		Name:   "demo-folder-unusable",
		Kind:   fault.Invalid,
		Text:   "the folder {folder} cannot be used",
		Remedy: "name a folder that this account may write to: --data DIR",
	}
)
