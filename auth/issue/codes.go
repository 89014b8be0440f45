package issue

import "github.com/threshold-access/threshold/internal/fault"

// recordNotEncoded is a defect: every record has a JSON form.
var recordNotEncoded = fault.Code{
	Name:   "issuance-record-not-encoded",
	Kind:   fault.Internal,
	Text:   "the issuance record could not be encoded",
	Remedy: "report this defect",
}
