package ca

import "github.com/threshold-access/threshold/internal/fault"

const opPrepare = "ca.Prepare"

// The errors of this package.
var (
	endPassed = fault.Code{
		Name:   "certificate-end-passed",
		Kind:   fault.Expired,
		Text:   "no certificate: it would have expired already, at {end}",
		Remedy: "run: tsh login",
	}

	certificateMalformed = fault.Code{
		Name:   "certificate-malformed",
		Kind:   fault.Invalid,
		Text:   "the certificate would not be well formed: {why}",
		Remedy: "ask an administrator to look at the request",
	}

	certificateNotSigned = fault.Code{
		Name:   "certificate-not-signed",
		Kind:   fault.Internal,
		Text:   "the certificate could not be signed",
		Remedy: "look at the log of auth",
	}

	certificateRefused = fault.Code{
		Name:   "certificate-refused",
		Kind:   fault.Invalid,
		Text:   "no certificate: {why}",
		Remedy: "{hint}",
	}

	clockSetBack = fault.Code{
		Name:   "clock-set-back",
		Kind:   fault.Unavailable,
		Text:   "the clock of auth says {now}, which is before certificates it issued ({issued})",
		Remedy: "set the clock of the auth host, then restart auth",
	}

	keysMissing = fault.Code{
		Name:   "keys-missing",
		Kind:   fault.Internal,
		Text:   "the CA lacks keys",
		Remedy: "report this defect",
	}

	keysOfOtherCluster = fault.Code{
		Name:   "keys-of-other-cluster",
		Kind:   fault.Invalid,
		Text:   "the keys are of cluster {found}, not {wanted}",
		Remedy: "start with the data of the cluster that the configuration names",
	}

	releasedBefore = fault.Code{
		Name:   "certificates-released-before",
		Kind:   fault.Internal,
		Text:   "these certificates were released before",
		Remedy: "report this defect",
	}
)
