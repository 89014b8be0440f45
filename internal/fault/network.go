package fault

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
)

// DescribeNetwork returns, in words for users, why a connection failed with err. Go's own texts name system
// calls, sockets and name servers. Of an error that it does not know it returns the text of the innermost
// cause.
func DescribeNetwork(err error) string {
	var nameError *net.DNSError
	var timeoutError interface{ Timeout() bool }
	switch {
	case errors.As(err, &nameError) && nameError.IsNotFound:
		return "there is no host " + nameError.Name
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeoutError) && timeoutError.Timeout():
		return "no answer in time"
	case errors.As(err, &nameError): // after the timeout: a name server that does not answer is one too
		return "the name server cannot resolve the name, or does not answer"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there (connection refused)"
	case errors.Is(err, io.EOF),
		errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE):
		return "the other side closed the connection"
	}
	return innermost(err).Error()
}

// innermost returns the last error in the chain of err: its text has none of the prefixes of the others.
func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
