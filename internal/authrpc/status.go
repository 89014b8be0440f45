package authrpc

import (
	"net/http"

	"github.com/threshold-access/threshold/internal/fault"
)

// Status returns the HTTP status code that carries a fault of the kind. Clients ignore it: the body holds the
// kind. It is for browsers and for whoever reads an access log. An unknown kind is 500.
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
