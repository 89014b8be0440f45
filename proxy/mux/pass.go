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
	// authConnect bounds the wait for auth to take a connection.
	authConnect = 5 * time.Second
	// authLinger is how long one direction may go on after the other has ended, and how long a peer may read
	// nothing: auth waits no longer for its own.
	authLinger = 30 * time.Second
)

// passThrough joins the client with auth, byte for byte: TLS ends there, and this proxy can read none of it.
// The address to go to is configured, never taken from the client.
func (m *Mux) passThrough(ctx context.Context, p *prefixedConn) {
	defer p.Close()
	dialer := keepalive.Dialer()
	dialer.Timeout = authConnect
	up, err := dialer.DialContext(ctx, "tcp", m.cfg.AuthAddr)
	if err != nil {
		m.cfg.Log.Warn("auth cannot be reached", "addr", m.cfg.AuthAddr, "err", err)
		return
	}
	defer up.Close()
	stop := context.AfterFunc(ctx, func() { p.Close(); up.Close() })
	defer stop()
	if err := m.sendForwardedFrom(up, p); err != nil {
		m.cfg.Log.Warn("a client could not be passed on to auth", "from", p.RemoteAddr(), "err", err)
		return
	}
	relay(p.Conn, up)
}

// sendForwardedFrom sends what the client has sent already, behind a word from where it comes: auth sees
// nothing but this proxy.
func (m *Mux) sendForwardedFrom(up net.Conn, p *prefixedConn) error {
	from, err := netip.ParseAddrPort(p.RemoteAddr().String())
	if err != nil {
		return err
	}
	word, err := m.cfg.SignForwardedFrom(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), p.prefix)
	if err != nil {
		return err
	}
	_, err = up.Write(append(word, p.prefix...))
	p.prefix = nil
	return err
}

// relay copies both ways until both have ended.
func relay(a, b net.Conn) {
	var both sync.WaitGroup
	both.Go(func() { copyOneWay(a, b) })
	both.Go(func() { copyOneWay(b, a) })
	both.Wait()
}

// passBytes is the size of a copy's buffer: calls to auth are small.
const passBytes = 8 << 10

var buffers = sync.Pool{New: func() any { return new([passBytes]byte) }}

// copyOneWay copies in this process: that the kernel splices would cost two descriptors more each way for as
// long as the connection stands, and strangers decide how many of those there are.
func copyOneWay(dst, src net.Conn) {
	buf := buffers.Get().(*[passBytes]byte)
	_, err := io.CopyBuffer(deadlineWriter{dst}, struct{ io.Reader }{src}, buf[:])
	buffers.Put(buf)
	half, ok := dst.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		dst.Close()
		src.Close()
		return
	}
	_ = dst.SetReadDeadline(time.Now().Add(authLinger))
}

// deadlineWriter gives each write a deadline.
type deadlineWriter struct{ dst net.Conn }

func (w deadlineWriter) Write(b []byte) (int, error) {
	if err := w.dst.SetWriteDeadline(time.Now().Add(authLinger)); err != nil {
		return 0, err
	}
	return w.dst.Write(b)
}
