package authrpc_test

import (
	"context"
	"crypto/tls"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
)

// failingDialer is a way on which something refuses.
type failingDialer struct{ err error }

func (b failingDialer) DialTLS(context.Context, string, *tls.Config) (*tls.Conn, error) {
	return nil, b.err
}

// An HTTP proxy that wants a password is not auth being away: what refused keeps its words, and a machine
// need not try for ever.
func TestAFaultOfTheDialerKeepsItsMessageAndRemedy(t *testing.T) {
	c := authrpc.NewClientWithDialer(
		failingDialer{fault.New(fault.Unauthenticated, "egress", "the gate wants a password", "give one")},
		"access.example.com:443",
		&tls.Config{},
	)
	_, err := authrpc.Call(t.Context(), c, authrpc.WhoAmI, authrpc.WhoAmIRequest{})
	if !fault.Is(err, fault.Unauthenticated) || fault.Message(err) != "the gate wants a password" ||
		fault.Remedy(err) != "give one" {
		t.Errorf("got %v, want the words of what refused", err)
	}
	c = authrpc.NewClientWithDialer(
		failingDialer{context.DeadlineExceeded},
		"access.example.com:443",
		&tls.Config{},
	)
	if _, err = authrpc.Call(t.Context(), c, authrpc.WhoAmI, authrpc.WhoAmIRequest{}); !fault.Is(
		err,
		fault.Unavailable,
	) ||
		!strings.Contains(err.Error(), "access.example.com:443") {
		t.Errorf("got %v, want auth unreachable at its address", err)
	}
}
