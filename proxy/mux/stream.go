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

var errStreamProtocol = errors.New("a WebSocket may only carry TLS with a threshold-* protocol")

// ServeStream takes over a byte stream from inside a WebSocket. outer is the connection of the WebSocket,
// which ServeWeb was given. The stream is served as if it had just been accepted from its remote address,
// with a deadline and a pending slot of its own. It may carry only threshold-* protocols, so that it is no
// way around the checks for browsers and SSH. ServeStream returns once the stream is handed over.
func (m *Mux) ServeStream(outer, stream net.Conn) {
	if tc, ok := outer.(*tls.Conn); ok {
		if c, ok := tc.NetConn().(*anonymousConn); ok {
			c.release() // the stream holds a slot instead
		}
	}
	select {
	case m.streams <- stream:
	case <-m.stopped:
		stream.Close()
	}
}

// acceptStreams starts serving each stream, in the context serve, until ctx ends.
func (m *Mux) acceptStreams(ctx, serve context.Context) {
	defer close(m.stopped)
	for {
		select {
		case stream := <-m.streams:
			m.startStream(serve, stream)
		case <-ctx.Done():
			return
		}
	}
}

// startStream is startConn for a stream.
func (m *Mux) startStream(ctx context.Context, stream net.Conn) {
	m.counters.WebSocket.Add(1)
	p := newPendingConn(stream)
	if m.fromBalancer(stream.RemoteAddr()) { // the balancer sent no address of the client
		p.network = netip.Prefix{}
	}
	if !m.admit(p) {
		return
	}
	m.serving.Go(func() {
		defer func() { p.release() }()
		defer m.recover(stream)
		m.dispatchStream(ctx, p)
	})
}

// dispatchStream is dispatch for a stream: anything but a threshold-* protocol over TLS is refused.
func (m *Mux) dispatchStream(ctx context.Context, p *pendingConn) {
	_ = p.SetReadDeadline(p.deadline)
	stop := context.AfterFunc(ctx, func() { p.Close() })
	// The client must send first. Without this read, sniff would take a silent stream for SSH.
	err := p.readMore()
	var proto protocol
	var offered []string
	if err == nil {
		proto, offered, err = p.sniff(p.deadline)
	}
	stop()
	if errors.Is(err, io.EOF) {
		err = errNoData
	}
	if err == nil && !isOwnProtocol(proto, offered) {
		err = errStreamProtocol
	}
	if err != nil {
		m.refuse(p, "WebSocket", err)
		return
	}
	_ = p.SetReadDeadline(time.Time{})
	m.serveTLS(ctx, p, offered)
}

// isOwnProtocol reports whether a ClientHello asks for exactly one threshold-* protocol.
func isOwnProtocol(proto protocol, offered []string) bool {
	name, err := chooseProtocol(offered)
	return err == nil && proto == protocolTLS && strings.HasPrefix(name, ownPrefix)
}
