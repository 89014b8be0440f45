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

	"github.com/threshold-access/threshold/internal/limit"
)

var errStreamProtocol = errors.New("inside a WebSocket there is threshold-* TLS and nothing else")

// ServeStream takes over a byte stream from inside outer, a connection that ServeWeb was given, and serves it
// as though it had just been accepted from the stream's remote address: with a deadline and a place of its
// own. Only our own protocols may be in it, so neither pages nor SSH are reached by another door than theirs.
func (m *Mux) ServeStream(outer, stream net.Conn) {
	if tc, ok := outer.(*tls.Conn); ok {
		if l, ok := tc.NetConn().(*anonymousConn); ok {
			l.release() // from now on the stream stands for it
		}
	}
	select {
	case m.streams <- stream:
	case <-m.stopped:
		stream.Close()
	}
}

// acceptStreams serves what enters until ctx ends.
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

func (m *Mux) startStream(ctx context.Context, stream net.Conn) {
	m.counters.WebSocket.Add(1)
	v := &pendingConn{
		prefixedConn: &prefixedConn{Conn: stream},
		network:      limit.Network(stream.RemoteAddr().String()),
		deadline:     time.Now().Add(handshakeTimeout),
	}
	if m.fromBalancer(stream.RemoteAddr()) { // which did not say for whom it comes
		v.network = netip.Prefix{}
	}
	if !m.admit(v) {
		return
	}
	m.serving.Go(func() {
		defer func() { v.release() }()
		defer m.recover(stream)
		m.dispatchStream(ctx, v)
	})
}

func (m *Mux) dispatchStream(ctx context.Context, v *pendingConn) {
	_ = v.SetReadDeadline(v.deadline)
	stop := context.AfterFunc(ctx, func() { v.Conn.Close() })
	err := v.readMore() // who waits for us to speak first is not one of ours
	var kind protocol
	var offered []string
	if err == nil {
		kind, offered, err = v.sniff(v.deadline)
	}
	stop()
	if errors.Is(err, io.EOF) {
		err = errNoData
	}
	if name, odd := chooseProtocol(offered); err == nil &&
		(odd != nil || kind != protocolTLS || !strings.HasPrefix(name, ownPrefix)) {
		err = errStreamProtocol
	}
	if err != nil {
		m.refuse(v, "WebSocket", err)
		return
	}
	_ = v.SetReadDeadline(time.Time{})
	m.serveTLS(ctx, v, offered)
}
