package mux

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// protocol is what the first bytes show.
type protocol int

const (
	protocolUnknown protocol = iota
	protocolSSH              // SSH-, or nothing: an SSH client may wait for the server
	protocolTLS
	protocolHTTP // in the clear, which gets an explanation
)

const (
	// sshSilence is how long a connection may say nothing before it is taken for SSH: docs/decisions/0012
	// says why so long.
	sshSilence = time.Second
	sshPrefix  = "SSH-"
)

var httpPrefixes = [][]byte{[]byte("GET /"), []byte("HEAD "), []byte("POST ")}

// prefixedConn is a connection whose first bytes have been read and are given again.
type prefixedConn struct {
	net.Conn
	prefix     []byte
	clientAddr net.Addr // the client's address where a balancer has told it, else nil
}

// RemoteAddr is the client's address.
func (p *prefixedConn) RemoteAddr() net.Addr {
	if p.clientAddr != nil {
		return p.clientAddr
	}
	return p.Conn.RemoteAddr()
}

func (p *prefixedConn) Read(b []byte) (int, error) {
	if len(p.prefix) == 0 {
		return p.Conn.Read(b)
	}
	n := copy(b, p.prefix)
	if p.prefix = p.prefix[n:]; len(p.prefix) == 0 {
		p.prefix = nil // let the buffer go
	}
	return n, nil
}

// CloseWrite is the half-close of the connection beneath, where it has one.
func (p *prefixedConn) CloseWrite() error {
	if c, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return p.Conn.Close()
}

// errNoData says that a connection was closed before its first byte, as by whoever only looks whether the
// port is open.
var errNoData = errors.New("closed before the first byte")

// sniff reads until it knows what the connection speaks and, for TLS, which ALPN names it offers. The whole
// takes until deadline at most.
func (p *prefixedConn) sniff(deadline time.Time) (protocol, []string, error) {
	if len(p.prefix) == 0 {
		_ = p.SetReadDeadline(time.Now().Add(sshSilence))
		err := p.readMore()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return protocolSSH, nil, nil
		case peerClosed(err):
			return protocolUnknown, nil, errNoData
		case err != nil:
			return protocolUnknown, nil, err
		}
	}
	_ = p.SetReadDeadline(deadline)
	for {
		kind, offered, look := detect(p.prefix)
		if !errors.Is(look, errIncomplete) {
			return kind, offered, look
		}
		if err := p.readMore(); err != nil {
			return protocolUnknown, nil, err
		}
	}
}

// detect tells from the first bytes what is spoken, or asks for more with errIncomplete.
func detect(b []byte) (protocol, []string, error) {
	if len(b) == 0 {
		return protocolUnknown, nil, errIncomplete
	}
	if b[0] == recordHandshake {
		offered, err := helloProtocols(b)
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

// agree reports whether b and want agree as far as both go.
func agree(b, want []byte) bool {
	n := min(len(b), len(want))
	return bytes.Equal(b[:n], want[:n])
}

func needBytes(b []byte, need int, kind protocol) (protocol, []string, error) {
	if len(b) < need {
		return protocolUnknown, nil, errIncomplete
	}
	return kind, nil, nil
}

const readStep = 2 << 10 // a ClientHello is 0.3 to 2 kB

// readMore reads once and keeps what came. It fails once maxHelloBytes are there.
func (p *prefixedConn) readMore() error {
	var step [readStep]byte
	if len(p.prefix) >= maxHelloBytes {
		return errHelloTooLong
	}
	n, err := p.Conn.Read(step[:min(readStep, maxHelloBytes-len(p.prefix))])
	p.prefix = append(p.prefix, step[:n]...)
	if n > 0 {
		return nil
	}
	if errors.Is(err, io.EOF) && len(p.prefix) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}
