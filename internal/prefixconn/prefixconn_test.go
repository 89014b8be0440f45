package prefixconn_test

import (
	"errors"
	"io"
	"net"
	"testing"

	"github.com/threshold-access/threshold/internal/prefixconn"
)

// halves is a connection that can close its sending half.
type halves struct {
	net.Conn
	closed *bool
}

func (h halves) CloseWrite() error {
	*h.closed = true
	return nil
}

// Read returns the prefix and then what the connection has.
func TestReadGivesThePrefixFirst(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	go func() {
		_, _ = far.Write([]byte("world"))
		far.Close()
	}()
	conn := prefixconn.New(near, []byte("hello "))
	if got := string(conn.Prefix()); got != "hello " {
		t.Errorf("prefix: got %q", got)
	}
	first := make([]byte, 64)
	if n, err := conn.Read(first[:4]); err != nil || string(first[:n]) != "hell" {
		t.Errorf("first read: got %q, %v, want hell", first[:n], err)
	}
	rest, err := io.ReadAll(conn)
	if err != nil || string(rest) != "o world" {
		t.Errorf("rest: got %q, %v", rest, err)
	}
}

func TestFillReadsAhead(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	go func() {
		_, _ = far.Write([]byte("SSH-2.0"))
		far.Close()
	}()
	conn := prefixconn.New(near, nil)
	if err := errors.Join(conn.Fill(3), conn.Fill(1)); err != nil || string(conn.Prefix()) != "SSH-" {
		t.Fatalf("got %q, %v, want SSH-", conn.Prefix(), err)
	}
	conn.Discard(1)
	if rest, err := io.ReadAll(conn); err != nil || string(rest) != "SH-2.0" {
		t.Errorf("got %q, %v, want what was not discarded", rest, err)
	}
	if err := conn.Fill(1); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: got %v, want EOF", err)
	}
}

func TestCloseWriteClosesHalfWhereThereAreHalves(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	closed := false
	if err := prefixconn.New(halves{near, &closed}, nil).CloseWrite(); err != nil || !closed {
		t.Errorf("got %v, closed %v, want the half closed", err, closed)
	}
	if err := prefixconn.New(near, nil).CloseWrite(); err != nil {
		t.Errorf("got %v", err)
	}
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the whole connection closed", err)
	}
}
