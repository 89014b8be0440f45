package authrpc_test

import (
	"context"
	"crypto/tls"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
)

// failingDialer is a dialer that fails with err.
type failingDialer struct{ err error }

func (d failingDialer) DialTLS(context.Context, string, *tls.Config) (*tls.Conn, error) {
	return nil, d.err
}

// An HTTP proxy that wants a password does not mean that auth is unreachable: the dialer's fault is returned
// as it is, so that a machine does not try again for nothing.
func TestAFaultOfTheDialerKeepsItsMessageAndRemedy(t *testing.T) {
	t.Parallel()
	call := func(err error) error {
		c := authrpc.NewClientWithDialer(failingDialer{err}, "access.example.com:443", &tls.Config{})
		_, err = authrpc.Call(t.Context(), c, authrpc.WhoAmI, authrpc.WhoAmIRequest{})
		return err
	}
	err := call(faulttest.New(fault.Unauthenticated, "egress", "the HTTP proxy wants a password", "give one"))
	if !fault.Is(err, fault.Unauthenticated) || fault.Message(err) != "the HTTP proxy wants a password" ||
		fault.Remedy(err) != "give one" {
		t.Errorf("got %v, want the fault of the dialer", err)
	}
	err = call(context.DeadlineExceeded)
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "access.example.com:443") {
		t.Errorf("got %v, want auth unreachable at its address", err)
	}
}
