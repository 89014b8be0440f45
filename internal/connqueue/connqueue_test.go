package connqueue_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/threshold-access/threshold/internal/connqueue"
)

// isClosed reports whether the other end of a pipe was closed.
func isClosed(t *testing.T, far net.Conn) bool {
	t.Helper()
	_, err := far.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

// Accept returns the connections that Put puts in.
func TestAcceptYieldsWhatWasPut(t *testing.T) {
	t.Parallel()
	addr := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443}
	listener := connqueue.New(addr)
	near, far := net.Pipe()
	defer far.Close()
	put := make(chan struct{})
	go func() {
		defer close(put)
		if err := listener.Put(t.Context(), near); err != nil {
			t.Errorf("got %v from Put, want nil", err)
		}
	}()
	got, err := listener.Accept()
	if err != nil || got != near {
		t.Fatalf("got %v, %v, want the connection that was put", got, err)
	}
	<-put
	got.Close()
	if listener.Addr() != net.Addr(addr) {
		t.Errorf("got address %v, want %v", listener.Addr(), addr)
	}
}

// Put closes a connection if the listener is closed or the context ends before Accept takes it.
func TestConnectionsThatNobodyAcceptsAreClosed(t *testing.T) {
	t.Parallel()
	listener := connqueue.New(nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	near, far := net.Pipe()
	if err := listener.Put(ctx, near); !errors.Is(err, context.Canceled) || !isClosed(t, far) {
		t.Errorf("its context had ended: got %v, want the context's error and the connection closed", err)
	}
	if err := errors.Join(listener.Close(), listener.Close()); err != nil {
		t.Errorf("closing twice: got %v, want nil", err)
	}
	near, far = net.Pipe()
	if err := listener.Put(t.Context(), near); !errors.Is(err, net.ErrClosed) || !isClosed(t, far) {
		t.Errorf("the listener was closed: got %v, want net.ErrClosed and the connection closed", err)
	}
	if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
}
