package fault

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
)

// DescribeNetwork says why a connection failed, in words for users. Go's own texts name system calls, sockets
// and name servers.
func DescribeNetwork(err error) string {
	var name *net.DNSError
	var timed interface{ Timeout() bool }
	switch {
	case errors.As(err, &name) && name.IsNotFound:
		return "there is no host " + name.Name
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timed) && timed.Timeout():
		return "no answer in time"
	case errors.As(err, &name):
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

// innermost returns the first cause, whose text has the fewest prefixes.
func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
