package mux

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/threshold-access/threshold/internal/prefixconn"
)

// protocol is what the first bytes show.
type protocol int

const (
	protocolUnknown protocol = iota
	protocolSSH              // the client sent "SSH-", or nothing: it may wait for the server's version
	protocolTLS
	protocolHTTP // without TLS; the client gets an explanation
)

const (
	// sshSilence is how long a connection may be silent before it is taken for SSH. docs/decisions/0012
	// explains the value.
	sshSilence = time.Second
	sshPrefix  = "SSH-"
	// readStep is how much one read may return. A ClientHello has 0.3 to 2 kB.
	readStep = 2 << 10
)

var httpPrefixes = [][]byte{[]byte("GET /"), []byte("HEAD "), []byte("POST ")}

// errNoData says that the peer closed the connection before the first byte, as port probes do.
var errNoData = errors.New("closed before the first byte")

// clientConn is a client's connection whose first bytes have been read ahead: Read returns them again.
type clientConn struct {
	prefixconn.Conn
	clientAddr net.Addr // the client's address as a balancer gave it; nil without a balancer
}

func newClientConn(conn net.Conn) *clientConn {
	return &clientConn{Conn: *prefixconn.New(conn, nil)}
}

// RemoteAddr is the address of the client, also behind a balancer.
func (c *clientConn) RemoteAddr() net.Addr {
	if c.clientAddr != nil {
		return c.clientAddr
	}
	return c.Conn.RemoteAddr()
}

// readMore reads ahead once. It returns nil when at least one byte came, and errHelloTooLong when
// maxHelloBytes have been read ahead already.
func (c *clientConn) readMore() error {
	have := len(c.Prefix())
	if have >= maxHelloBytes {
		return errHelloTooLong
	}
	err := c.Fill(min(readStep, maxHelloBytes-have))
	if len(c.Prefix()) > have {
		return nil
	}
	if errors.Is(err, io.EOF) && have > 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// sniff reads ahead until the protocol is known and, for TLS, the ALPN names that the client offers. It takes
// until deadline at most. A client that is silent for sshSilence gets protocolSSH, because an SSH client may
// wait for the server's version. The error is errNoData if the client closed without a byte. sniff leaves a
// read deadline set.
func (c *clientConn) sniff(deadline time.Time) (proto protocol, offered []string, err error) {
	if len(c.Prefix()) == 0 {
		_ = c.SetReadDeadline(time.Now().Add(sshSilence))
		err = c.readMore()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return protocolSSH, nil, nil
		case peerClosed(err):
			return protocolUnknown, nil, errNoData
		case err != nil:
			return protocolUnknown, nil, err
		}
	}
	_ = c.SetReadDeadline(deadline)
	for {
		proto, offered, err = detect(c.Prefix())
		if !errors.Is(err, errIncomplete) {
			return proto, offered, err
		}
		if err := c.readMore(); err != nil {
			return protocolUnknown, nil, err
		}
	}
}

// detect returns the protocol of a connection that begins with the bytes b, and for TLS the ALPN names that
// the client offers. It returns errIncomplete while b is too short to decide. Once it has decided, more bytes
// do not change the result.
func detect(b []byte) (proto protocol, offered []string, err error) {
	if len(b) == 0 {
		return protocolUnknown, nil, errIncomplete
	}
	if b[0] == recordHandshake {
		offered, err = helloProtocols(b)
		return protocolTLS, offered, err
	}
	if agree(b, []byte(sshPrefix)) {
		return needBytes(b, len(sshPrefix), protocolSSH)
	}
	for _, method := range httpPrefixes {
		if agree(b, method) {
			return needBytes(b, len(method), protocolHTTP)
		}
	}
	return protocolUnknown, nil, errors.New("neither SSH nor TLS")
}

// agree reports whether one of b and want is a prefix of the other.
func agree(b, want []byte) bool {
	n := min(len(b), len(want))
	return bytes.Equal(b[:n], want[:n])
}

// needBytes returns proto once b has n bytes, and errIncomplete before.
func needBytes(b []byte, n int, proto protocol) (protocol, []string, error) {
	if len(b) < n {
		return protocolUnknown, nil, errIncomplete
	}
	return proto, nil, nil
}
