package authorities

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	answerInvalid = fault.Code{
		Name:   "root-answer-invalid",
		Kind:   fault.Invalid,
		Text:   "this is no answer of the root key that can be used: {why}",
		Remedy: "apply the file that threshold root sign wrote for the newest request",
	}

	noRequest = fault.Code{
		Name:   "root-request-none",
		Kind:   fault.Conflict,
		Text:   "nothing waits for the signature of the root",
		Remedy: "make a request first: tsh root request --replace AUTHORITY",
	}

	nothingToReplace = fault.Code{
		Name:   "root-request-empty",
		Kind:   fault.Invalid,
		Text:   "the request names no authority, or one twice",
		Remedy: "name each authority once: user-ssh, host-ssh, user-x509, service-x509 or rules",
	}

	requestInvalid = fault.Code{
		Name:   "root-request-invalid",
		Kind:   fault.Invalid,
		Text:   "this is no request that the root key can sign: {why}",
		Remedy: "make a new one: tsh root request",
	}

	rootOfOtherCluster = fault.Code{
		Name:   "root-of-other-cluster",
		Kind:   fault.Denied,
		Text:   "the request is of {wanted} ({pin}), the root key of {cluster} ({found})",
		Remedy: "name the root key file of the cluster that made the request",
	}
)
