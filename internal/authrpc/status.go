package authrpc

import (
	"net/http"
	"strconv"
	"time"

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

// SetRetryAfter sets the header Retry-After of a response with the fault e, if the fault says when to try
// again (RFC 9110 section 10.2.3).
func SetRetryAfter(header http.Header, e *fault.Error) {
	if e.RetryAfter > 0 {
		seconds := (e.RetryAfter + time.Second - 1) / time.Second
		header.Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
}
