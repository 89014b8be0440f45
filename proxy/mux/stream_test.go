package mux_test

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/member/membertest"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

const streamAddr = "203.0.113.9:0"

// dialStream gives the port a stream as from a WebSocket.
func (p *testMux) dialStream() net.Conn {
	near, far := net.Pipe()
	outer, other := net.Pipe()
	other.Close()
	p.mux.ServeStream(outer, addrConn{far, tcp(streamAddr)})
	return near
}

func TestOurProtocolsWorkInsideAWebSocket(t *testing.T) {
	a := proxytest.New(t)
	p := startMux(t, a, openRules(t, a))
	alice := a.UserCertificate(a.User("alice@example.com"), nil)
	for _, tt := range []struct {
		alpn, by string
		cert     *tls.Certificate
	}{
		{identity.ALPNDial, "dial", alice},
		{identity.ALPNTunnel, "tunnel", a.MachineCertificate(a.Machine(identity.Node, "web-1", nil), nil)},
	} {
		cfg := identity.PinnedTLS(
			a.Pin(),
			membertest.Name,
			tt.alpn,
			func() (*tls.Certificate, error) { return tt.cert, nil },
			time.Now,
			identity.Proxy,
		)
		c := tls.Client(p.dialStream(), cfg)
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, c) // until the server, which ends at once, has said so
		if got := <-p.served; got.by != tt.by || got.from != streamAddr || got.peer.Name == "" {
			t.Errorf("%s: got %+v, want a verified peer from %s", tt.alpn, got, streamAddr)
		}
		c.Close()
	}
	c := tls.Client(
		p.dialStream(),
		identity.PinnedTLS(a.Pin(), membertest.Name, identity.ALPNAuth, nil, time.Now, identity.Auth),
	)
	if err := c.Handshake(); err != nil {
		t.Errorf("auth: got %v, want it passed through", err)
	}
	c.Close()
	p.stop()
	if got := p.mux.Counters().WebSocket.Load(); got != 3 {
		t.Errorf("got %d counted, want 3", got)
	}
}

func TestOtherProtocolsInsideAWebSocketAreRefused(t *testing.T) {
	a := proxytest.New(t)
	p := startMux(t, a, openRules(t, a))
	for name, first := range map[string][]byte{
		"SSH":                 []byte("SSH-2.0-x\r\n"),
		"the web":             clientHello(t, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}),
		"TLS for nobody":      clientHello(t, &tls.Config{InsecureSkipVerify: true}),
		"a service of none":   clientHello(t, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"threshold-x"}}),
		"several":             clientHello(t, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"threshold-dial", "threshold-auth"}}),
		"HTTP":                []byte("GET /v1/connect HTTP/1.1\r\n\r\n"),
		"an ACME challenge":   clientHello(t, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"acme-tls/1"}}),
		"a PROXY header":      []byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
		"nothing, and it end": nil,
	} {
		c := p.dialStream()
		if first == nil {
			c.Close()
			continue
		}
		go c.Write(first)
		if b, err := io.ReadAll(c); len(b) != 0 || err != nil && err != io.ErrClosedPipe {
			t.Errorf("%s: got %q, %v, want it closed", name, b, err)
		}
		c.Close()
	}
	p.stop()
	if len(p.served) != 0 {
		t.Errorf("got %+v served, want nobody", <-p.served)
	}
}

func TestAStallInsideAWebSocketTimesOut(t *testing.T) {
	a := proxytest.New(t)
	trust := openRules(t, a)
	for name, first := range map[string][]byte{"silence": nil, "half a hello": {22, 3, 1, 2}} {
		synctest.Test(t, func(t *testing.T) {
			p := startMux(t, a, trust)
			c, start := p.dialStream(), time.Now()
			if first != nil {
				c.Write(first)
			}
			io.Copy(io.Discard, c)
			if took := time.Since(start); took != 10*time.Second {
				t.Errorf("%s: got closed after %s, want 10s", name, took)
			}
			c.Close()
			p.stop()
			if got := p.mux.Counters().TimedOut.Load(); got != 1 {
				t.Errorf("%s: got %d timed out, want 1", name, got)
			}
		})
	}
}

func TestServeStreamClosesTheStreamAfterAStop(t *testing.T) {
	a := proxytest.New(t)
	p := startMux(t, a, openRules(t, a))
	p.stop()
	if _, err := p.dialStream().Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v, want it closed", err)
	}
}
