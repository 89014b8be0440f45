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

	"github.com/threshold-access/threshold/internal/places"
)

var errInside = errors.New("inside a WebSocket there is threshold-* TLS and nothing else")

// Enter takes over a byte stream from inside outer, a connection that ServeWeb was given, and serves it as though it had just been
// accepted from the stream's remote address: with a deadline and a place of its own. Only our own protocols may be in it, so neither pages
// nor SSH are reached by another door than theirs.
func (m *Mux) Enter(outer, stream net.Conn) {
	if tc, ok := outer.(*tls.Conn); ok {
		if l, ok := tc.NetConn().(*leaving); ok {
			l.leave() // from now on the stream stands for it
		}
	}
	select {
	case m.entering <- stream:
	case <-m.shut:
		stream.Close()
	}
}

// takeIn serves what enters until ctx ends.
func (m *Mux) takeIn(ctx, serve context.Context) {
	defer close(m.shut)
	for {
		select {
		case stream := <-m.entering:
			m.beginInside(serve, stream)
		case <-ctx.Done():
			return
		}
	}
}

func (m *Mux) beginInside(ctx context.Context, stream net.Conn) {
	m.counters.Inside.Add(1)
	v := &visit{peeked: &peeked{Conn: stream}, who: places.Network(stream.RemoteAddr().String()), deadline: time.Now().Add(handshakeTimeout)}
	if m.balanced(stream.RemoteAddr()) { // which did not say for whom it comes
		v.who = netip.Prefix{}
	}
	if !m.admit(v) {
		return
	}
	m.all.Go(func() {
		defer func() { v.release() }()
		defer m.recover(stream)
		m.serveInside(ctx, v)
	})
}

func (m *Mux) serveInside(ctx context.Context, v *visit) {
	_ = v.SetReadDeadline(v.deadline)
	stop := context.AfterFunc(ctx, func() { v.Conn.Close() })
	err := v.more() // who waits for us to speak first is not one of ours
	var kind protocol
	var offered []string
	if err == nil {
		kind, offered, err = v.sniff(v.deadline)
	}
	stop()
	if errors.Is(err, io.EOF) {
		err = errNobody
	}
	if name, odd := choose(offered); err == nil && (odd != nil || kind != speaksTLS || !strings.HasPrefix(name, threshold)) {
		err = errInside
	}
	if err != nil {
		m.refuse(v, "WebSocket", err)
		return
	}
	_ = v.SetReadDeadline(time.Time{})
	m.serveTLS(ctx, v, offered)
}
