package authrpc

import (
	"net/http"

	"github.com/threshold-access/threshold/internal/fault"
)

// Status returns the HTTP status code of a response with a fault of the kind; 500 for an unknown kind. Our
// clients do not use it, because the fault in the body says its kind. It is for browsers and access logs.
func Status(kind fault.Kind) int {
	switch kind {
	case fault.Invalid:
		return http.StatusBadRequest
	case fault.Unauthenticated:
		return http.StatusUnauthorized
	case fault.Denied:
		return http.StatusForbidden
	case fault.Expired:
		return http.StatusGone
	case fault.NotFound:
		return http.StatusNotFound
	case fault.Conflict:
		return http.StatusConflict
	case fault.Unavailable:
		return http.StatusServiceUnavailable
	case fault.Exhausted:
		return http.StatusTooManyRequests
	}
	return http.StatusInternalServerError
}
