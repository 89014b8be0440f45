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

// passThrough relays bytes between the client and the auth service. TLS ends there, so the proxy can read
// nothing. The address is configured, and never taken from the client.
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
	relay(client.Conn.Conn, auth) // nothing is left in the prefix
}

// sendForwardedFrom sends the signed address of the client, and then the bytes that were read ahead.
// Without the address the auth service would see only this proxy.
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

// copyOneWay copies until src ends, and closes the sending half of dst. It closes both after an error.
//
// The copy takes place in this process, not by splice(2): a splice holds a pipe, which is two more file
// descriptors for each direction as long as the connection stands, and strangers decide how many stand.
func copyOneWay(dst, src net.Conn) {
	buf := passBuffers.Get().(*[passBufferBytes]byte)
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
