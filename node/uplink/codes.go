package uplink

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	uplinkCertificateExpired = fault.Code{
		Name:   "uplink-certificate-expired",
		Kind:   fault.Expired,
		Text:   "the proxy's {why}",
		Remedy: "set this machine's clock, or check the proxy",
	}

	uplinkClusterWrong = fault.Code{
		Name:   "uplink-cluster-wrong",
		Kind:   fault.Denied,
		Text:   "the proxy at {address} does not belong to this node's cluster",
		Remedy: "check the address given with --proxy",
	}

	uplinkUnreachable = fault.Code{
		Name:   "uplink-unreachable",
		Kind:   fault.Unavailable,
		Text:   "the proxy at {address} cannot be reached",
		Remedy: "check the address and that outgoing connections are allowed",
	}
)
