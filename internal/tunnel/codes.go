package tunnel

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	attachmentInvalid = fault.Code{
		Name:   "attachment-invalid",
		Kind:   fault.Denied,
		Text:   "the attachment is not signed by this node for this proxy and tunnel",
		Remedy: "restart the node; if that does not help, remove its data and let it join again",
	}

	greetingClockWrong = fault.Code{
		Name:   "greeting-clock-wrong",
		Kind:   fault.Invalid,
		Text:   "the node's clock is off by {off} (it says {node_time}, the proxy says {proxy_time})",
		Remedy: "set the node's clock; an NTP service keeps it right",
	}

	nodeGreetingUnreadable = fault.Code{
		Name:   "node-greeting-unreadable",
		Kind:   fault.Invalid,
		Text:   "the proxy cannot read the node's greeting: {why}",
		Remedy: "update the proxy, or run threshold-node of the proxy's release",
	}

	nodeStreamsExhausted = fault.Code{
		Name:   "node-streams-exhausted",
		Kind:   fault.Unavailable,
		Text:   "the node has as many connections as it takes",
		Remedy: "try again later; if it lasts, look for who opens them",
	}

	proxyGreetingMalformed = fault.Code{
		Name:   "proxy-greeting-malformed",
		Kind:   fault.Invalid,
		Text:   "the proxy's greeting is malformed",
		Remedy: "check that node and proxy versions match: threshold-node version",
	}

	streamUnsupported = fault.Code{
		Name:   "stream-unsupported",
		Kind:   fault.Invalid,
		Text:   "the node does not know what the proxy asks for",
		Remedy: "update threshold-node on the node to the release of the proxy",
	}

	tunnelEnded = fault.Code{
		Name:   "tunnel-ended",
		Kind:   fault.Unavailable,
		Text:   "the tunnel to the node has ended",
		Remedy: "try again in a few seconds",
	}

	tunnelStuck = fault.Code{
		Name:   "tunnel-stuck",
		Kind:   fault.Unavailable,
		Text:   "the tunnel to the node does not accept data",
		Remedy: "try again in a few seconds",
	}
)
