package fault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/threshold-access/threshold/internal/fault"
)

// Each error of package net becomes a text for users.
func TestDescribeNetwork(t *testing.T) {
	t.Parallel()
	dial := func(err error) error {
		return &url.Error{
			Op:  "Post",
			URL: "https://auth/x",
			Err: &net.OpError{Op: "dial", Net: "tcp", Err: err},
		}
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)),
			"nothing listens there (connection refused)"},
		{dial(&net.DNSError{Name: "nosuch.invalid", Server: "192.0.2.53:53", Err: "no such host",
			IsNotFound: true}), "there is no host nosuch.invalid"},
		{dial(&net.DNSError{Name: "x", Server: "192.0.2.53:53", Err: "server misbehaving"}),
			"the name server cannot resolve the name, or does not answer"},
		{dial(&net.DNSError{Name: "x", Err: "i/o timeout", IsTimeout: true}), "no answer in time"},
		{dial(os.ErrDeadlineExceeded), "no answer in time"},
		{fmt.Errorf("call: %w", context.DeadlineExceeded), "no answer in time"},
		{dial(io.EOF), "the other side closed the connection"},
		{fmt.Errorf("read: %w", os.NewSyscallError("read", syscall.ECONNRESET)),
			"the other side closed the connection"},
		{dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH)), "no route to host"},
		{fmt.Errorf("outer: %w", errors.New("first")), "first"},
	} {
		if got := fault.DescribeNetwork(c.err); got != c.want {
			t.Errorf("%v: got %q, want %q", c.err, got, c.want)
		}
		if got := fault.DescribeNetwork(c.err); strings.Contains(got, "192.0.2.53") {
			t.Errorf("got %q, want no name server in it", got)
		}
	}
}
