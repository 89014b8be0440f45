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
	unknown   protocol = iota
	speaksSSH          // SSH-, or nothing: an SSH client may wait for the server
	speaksTLS
	speaksHTTP // in the clear, which gets an explanation
)

const (
	// silence is how long a connection may say nothing before it is taken for SSH: docs/decisions/0012 says why so long.
	silence  = time.Second
	sshStart = "SSH-"
)

var clearHTTP = [][]byte{[]byte("GET /"), []byte("HEAD "), []byte("POST ")}

// peeked is a connection whose first bytes have been read and are given again.
type peeked struct {
	net.Conn
	head []byte
	from net.Addr // the client's address where a balancer has told it, else nil
}

// RemoteAddr is the client's address.
func (p *peeked) RemoteAddr() net.Addr {
	if p.from != nil {
		return p.from
	}
	return p.Conn.RemoteAddr()
}

func (p *peeked) Read(b []byte) (int, error) {
	if len(p.head) == 0 {
		return p.Conn.Read(b)
	}
	n := copy(b, p.head)
	if p.head = p.head[n:]; len(p.head) == 0 {
		p.head = nil // let the buffer go
	}
	return n, nil
}

// CloseWrite is the half-close of the connection beneath, where it has one.
func (p *peeked) CloseWrite() error {
	if c, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return p.Conn.Close()
}

// errNobody says that a connection was closed before its first byte, as by whoever only looks whether the port is open.
var errNobody = errors.New("closed before the first byte")

// sniff reads until it knows what the connection speaks and, for TLS, which ALPN names it offers. The whole takes until deadline at most.
func (p *peeked) sniff(deadline time.Time) (protocol, []string, error) {
	if len(p.head) == 0 {
		_ = p.SetReadDeadline(time.Now().Add(silence))
		err := p.more()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return speaksSSH, nil, nil
		case hungUp(err):
			return unknown, nil, errNobody
		case err != nil:
			return unknown, nil, err
		}
	}
	_ = p.SetReadDeadline(deadline)
	for {
		kind, offered, look := recognise(p.head)
		if !errors.Is(look, errMore) {
			return kind, offered, look
		}
		if err := p.more(); err != nil {
			return unknown, nil, err
		}
	}
}

// recognise tells from the first bytes what is spoken, or asks for more with errMore.
func recognise(b []byte) (protocol, []string, error) {
	if len(b) == 0 {
		return unknown, nil, errMore
	}
	if b[0] == recordHandshake {
		offered, err := helloProtocols(b)
		return speaksTLS, offered, err
	}
	if begins(b, []byte(sshStart)) {
		return settle(b, len(sshStart), speaksSSH)
	}
	for _, method := range clearHTTP {
		if begins(b, method) {
			return settle(b, len(method), speaksHTTP)
		}
	}
	return unknown, nil, errors.New("neither SSH nor TLS")
}

// begins reports whether b and want agree as far as both go.
func begins(b, want []byte) bool {
	n := min(len(b), len(want))
	return bytes.Equal(b[:n], want[:n])
}

func settle(b []byte, need int, kind protocol) (protocol, []string, error) {
	if len(b) < need {
		return unknown, nil, errMore
	}
	return kind, nil, nil
}

const readStep = 2 << 10 // a ClientHello is 0.3 to 2 kB

// more reads once and keeps what came. It fails once maxHelloBytes are there.
func (p *peeked) more() error {
	var step [readStep]byte
	if len(p.head) >= maxHelloBytes {
		return errTooLong
	}
	n, err := p.Conn.Read(step[:min(readStep, maxHelloBytes-len(p.head))])
	p.head = append(p.head, step[:n]...)
	if n > 0 {
		return nil
	}
	if errors.Is(err, io.EOF) && len(p.head) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}
