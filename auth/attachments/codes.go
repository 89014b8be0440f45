package attachments

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	filtersTooMany = fault.Code{
		Name:   "filters-too-many",
		Kind:   fault.Invalid,
		Text:   "{count} labels to select by, more than {most}",
		Remedy: "select by fewer labels",
	}

	nodeNotListed = fault.Code{
		Name:   "node-not-listed",
		Kind:   fault.NotFound,
		Text:   "there is no node \"{node}\"",
		Remedy: "list the nodes: tsh ls",
	}

	reportTooLarge = fault.Code{
		Name:   "report-too-large",
		Kind:   fault.Invalid,
		Text:   "{count} nodes in one report, more than {most}",
		Remedy: "spread the nodes over more proxies",
	}
)
