package mux

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/keepalive"
)

const (
	// authConnectTimeout bounds the TCP connect to the auth service.
	authConnectTimeout = 5 * time.Second
	// authLinger is how long one direction may go on after the other has ended, and how long a peer may go
	// without reading. The auth service has the same limit for its own connections.
	authLinger = 30 * time.Second
	// passBufferBytes is the size of a copy buffer. Calls to the auth service are small.
	passBufferBytes = 8 << 10
)

// passThrough connects to the auth service, tells it the client's address, and relays bytes between the two
// until both directions or ctx have ended. It closes both connections. TLS runs between the client and the
// auth service, so the proxy can read nothing. The address of the auth service is configured: the client has
// no influence on where the proxy connects to.
func (m *Mux) passThrough(ctx context.Context, client *clientConn) {
	defer client.Close()
	dialer := keepalive.Dialer()
	dialer.Timeout = authConnectTimeout
	auth, err := dialer.DialContext(ctx, "tcp", m.cfg.AuthAddr)
	if err != nil {
		m.cfg.Log.Warn("cannot connect to the auth service", "addr", m.cfg.AuthAddr, "err", err)
		return
	}
	defer auth.Close()
	stop := context.AfterFunc(ctx, func() { client.Close(); auth.Close() })
	defer stop()
	if err := m.sendForwardedFrom(auth, client); err != nil {
		m.cfg.Log.Warn("cannot pass a client through to the auth service",
			"from", client.RemoteAddr(), "err", err)
		return
	}
	relay(client.Conn.Conn, auth) // the bare connection: sendForwardedFrom has sent what was read ahead
}

// sendForwardedFrom sends the client's address, signed by this proxy, and then the bytes of the client that
// were read ahead. The auth service needs the address for its limits and audit events: its connection shows
// it only the address of this proxy.
func (m *Mux) sendForwardedFrom(auth net.Conn, client *clientConn) error {
	from, err := netip.ParseAddrPort(client.RemoteAddr().String())
	if err != nil {
		return err
	}
	hello := client.Prefix()
	header, err := m.cfg.SignForwardedFrom(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), hello)
	if err != nil {
		return err
	}
	_, err = auth.Write(append(header, hello...))
	client.Discard(len(hello))
	return err
}

// relay copies both ways until both directions have ended.
func relay(a, b net.Conn) {
	var both sync.WaitGroup
	both.Go(func() { copyOneWay(a, b) })
	both.Go(func() { copyOneWay(b, a) })
	both.Wait()
}

var passBuffers = sync.Pool{New: func() any { return new([passBufferBytes]byte) }}

// copyOneWay copies from src to dst until src ends, and then closes the sending half of dst. The other
// direction gets authLinger to end as well. After an error it closes both connections.
//
// The copy takes place in this process, not by splice(2): a splice holds a pipe, which is two more file
// descriptors for each direction of an open connection, and strangers decide how many connections are open.
func copyOneWay(dst, src net.Conn) {
	buf := passBuffers.Get().(*[passBufferBytes]byte)
	// The wrappers hide ReadFrom and WriteTo, by which io.CopyBuffer would use splice.
	_, err := io.CopyBuffer(deadlineWriter{dst}, struct{ io.Reader }{src}, buf[:])
	passBuffers.Put(buf)
	half, ok := dst.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		dst.Close()
		src.Close()
		return
	}
	_ = dst.SetReadDeadline(time.Now().Add(authLinger))
}

// deadlineWriter gives each write a deadline of authLinger.
type deadlineWriter struct{ dst net.Conn }

func (w deadlineWriter) Write(b []byte) (int, error) {
	if err := w.dst.SetWriteDeadline(time.Now().Add(authLinger)); err != nil {
		return 0, err
	}
	return w.dst.Write(b)
}
