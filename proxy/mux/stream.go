package mux

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"
)

var errStreamProtocol = errors.New("a WebSocket may only contain TLS with a threshold-* protocol")

// ServeStream takes over stream, the byte stream inside a WebSocket. outer is the connection of the
// WebSocket, as ServeWeb was given it. The stream is served as if it had just been accepted from its remote
// address, with a deadline and a pending slot of its own. Only threshold-* protocols are allowed in it:
// otherwise it would be a way around the checks for browsers and for SSH. ServeStream returns as soon as
// another goroutine serves the stream. After a stop it closes the stream.
func (m *Mux) ServeStream(outer, stream net.Conn) {
	if tlsConn, ok := outer.(*tls.Conn); ok {
		if anonymous, ok := tlsConn.NetConn().(*anonymousConn); ok {
			anonymous.release() // the stream holds a slot instead
		}
	}
	select {
	case m.streams <- stream:
	case <-m.stopped:
		stream.Close()
	}
}

// acceptStreams starts serving each stream that ServeStream takes over, in the context serveCtx, until ctx
// ends. It is one goroutine of Run, so Run waits for it.
func (m *Mux) acceptStreams(ctx, serveCtx context.Context) {
	defer close(m.stopped)
	for {
		select {
		case stream := <-m.streams:
			m.startStream(serveCtx, stream)
		case <-ctx.Done():
			return
		}
	}
}

// startStream is startConn for a stream inside a WebSocket.
func (m *Mux) startStream(ctx context.Context, stream net.Conn) {
	m.counters.WebSocket.Add(1)
	conn := newPendingConn(stream)
	if m.fromBalancer(stream.RemoteAddr()) { // the balancer sent no address of the client
		conn.network = netip.Prefix{}
	}
	if !m.admit(conn) {
		return
	}
	m.serving.Go(func() {
		defer func() { conn.release() }()
		defer m.recover(stream)
		m.dispatchStream(ctx, conn)
	})
}

// dispatchStream is dispatch for a stream inside a WebSocket. It refuses anything but a threshold-* protocol
// over TLS.
func (m *Mux) dispatchStream(ctx context.Context, conn *pendingConn) {
	_ = conn.SetReadDeadline(conn.deadline)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	// The client must send first. Without this read, sniff would take a silent stream for SSH.
	err := conn.readMore()
	var proto protocol
	var offered []string
	if err == nil {
		proto, offered, err = conn.sniff(conn.deadline)
	}
	stop()
	if errors.Is(err, io.EOF) { // the first read found the end: nobody is charged for a stream without data
		err = errNoData
	}
	if err == nil && !isOwnProtocol(proto, offered) {
		err = errStreamProtocol
	}
	if err != nil {
		m.refuse(conn, "WebSocket", err)
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	m.serveTLS(ctx, conn, offered)
}

// isOwnProtocol reports whether a ClientHello asks for exactly one threshold-* protocol.
func isOwnProtocol(proto protocol, offered []string) bool {
	name, err := chooseProtocol(offered)
	return err == nil && proto == protocolTLS && strings.HasPrefix(name, ownPrefix)
}
