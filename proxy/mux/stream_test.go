package mux_test

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

// streamAddr is the client's address of streams. A balancer tells no port.
const streamAddr = "203.0.113.9:0"

// dialStream gives the Mux a stream as from a WebSocket, and returns the client's end.
func (m *testMux) dialStream() net.Conn {
	near, far := net.Pipe()
	outer, other := net.Pipe()
	other.Close()
	m.mux.ServeStream(outer, addrConn{far, tcp(streamAddr)})
	return near
}

// The dial, tunnel and auth protocols work inside a WebSocket, with the verified peer and the address of the
// client.
func TestOurProtocolsWorkInsideAWebSocket(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	port := startMux(t, auth, openRules(t, auth))
	alice := auth.UserCertificate(auth.User("alice@example.com"), nil)
	web1 := auth.MachineCertificate(auth.Machine(identity.Node, "web-1", nil), nil)
	for _, tt := range []struct {
		alpn, by string
		cert     *tls.Certificate
	}{
		{identity.ALPNDial, "dial", alice},
		{identity.ALPNTunnel, "tunnel", web1},
	} {
		cert := func() (*tls.Certificate, error) { return tt.cert, nil }
		cfg := identity.PinnedTLS(auth.Pin(), clustertest.Name, tt.alpn, cert, time.Now, identity.Proxy)
		conn := tls.Client(port.dialStream(), cfg)
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, conn) // until the server closes
		if got := <-port.served; got.by != tt.by || got.from != streamAddr || got.peer.Name == "" {
			t.Errorf("%s: got %+v, want a verified peer from %s", tt.alpn, got, streamAddr)
		}
		conn.Close()
	}
	cfg := identity.PinnedTLS(auth.Pin(), clustertest.Name, identity.ALPNAuth, nil, time.Now, identity.Auth)
	conn := tls.Client(port.dialStream(), cfg)
	if err := conn.Handshake(); err != nil {
		t.Errorf("auth: got %v, want it passed through", err)
	}
	conn.Close()
	port.stop()
	if got := port.mux.Counters().WebSocket.Load(); got != 3 {
		t.Errorf("got %d counted, want 3", got)
	}
}

// A WebSocket is no way around the checks for other protocols: anything but TLS with exactly one threshold-*
// protocol is closed.
func TestOtherProtocolsInsideAWebSocketAreRefused(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	port := startMux(t, auth, openRules(t, auth))
	offer := func(alpn ...string) []byte {
		return clientHello(t, &tls.Config{InsecureSkipVerify: true, NextProtos: alpn})
	}
	for name, first := range map[string][]byte{
		"SSH":                             []byte("SSH-2.0-x\r\n"),
		"the web":                         offer("http/1.1"),
		"TLS without ALPN":                offer(),
		"an unknown threshold protocol":   offer("threshold-x"),
		"several threshold protocols":     offer("threshold-dial", "threshold-auth"),
		"HTTP":                            []byte("GET /v1/connect HTTP/1.1\r\n\r\n"),
		"an ACME challenge":               offer("acme-tls/1"),
		"a PROXY header":                  []byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
		"a stream that is closed at once": nil,
	} {
		conn := port.dialStream()
		if first == nil {
			conn.Close()
			continue
		}
		go conn.Write(first)
		if b, err := io.ReadAll(conn); len(b) != 0 || err != nil && err != io.ErrClosedPipe {
			t.Errorf("%s: got %q, %v, want it closed", name, b, err)
		}
		conn.Close()
	}
	port.stop()
	if len(port.served) != 0 {
		t.Errorf("got %+v served, want nothing served", <-port.served)
	}
}

// A stream inside a WebSocket has the same deadline of 10 s as a connection. Silence is not taken for SSH.
func TestAStallInsideAWebSocketTimesOut(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	trust := openRules(t, auth)
	for name, first := range map[string][]byte{"silence": nil, "half a ClientHello": {22, 3, 1, 2}} {
		synctest.Test(t, func(t *testing.T) {
			port := startMux(t, auth, trust)
			conn, start := port.dialStream(), time.Now()
			if first != nil {
				conn.Write(first)
			}
			io.Copy(io.Discard, conn)
			if took := time.Since(start); took != 10*time.Second {
				t.Errorf("%s: got closed after %s, want 10s", name, took)
			}
			conn.Close()
			port.stop()
			if got := port.mux.Counters().TimedOut.Load(); got != 1 {
				t.Errorf("%s: got %d timed out, want 1", name, got)
			}
		})
	}
}

func TestServeStreamClosesTheStreamAfterAStop(t *testing.T) {
	t.Parallel()
	a := proxytest.New(t)
	m := startMux(t, a, openRules(t, a))
	m.stop()
	if _, err := m.dialStream().Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v, want it closed", err)
	}
}
