package webcert

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	acmeCAFileInvalid = fault.Code{
		Name:   "acme-ca-file-invalid",
		Kind:   fault.Invalid,
		Text:   "the CA file of the ACME authority cannot be used: {why}",
		Remedy: "check spec.proxy.acme.ca_file",
	}

	webCertificateUnusable = fault.Code{
		Name:   "web-certificate-unusable",
		Kind:   fault.Invalid,
		Text:   "the web certificate cannot be used",
		Remedy: "check {cert_file} and {key_file}",
	}
)
