package clustertest

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/connqueue"
	"github.com/threshold-access/threshold/internal/testnet"
)

// Protocol is what a port serves to clients that ask for its ALPN name.
type Protocol struct {
	Name        string
	Certificate func() *tls.Certificate // of the server
	ClientAuth  tls.ClientAuthType      // not more than RequireAnyClientCert: see Cluster.VerifyPeer

	// Handler serves HTTP. Where it is nil, Serve gets the connection, which is closed when Serve returns.
	// Connection and context end when the port stops.
	Handler http.Handler
	Serve   func(ctx context.Context, conn *tls.Conn)
}

// Serve serves the protocols over TLS on a listener until stop is called or the test ends. The first one is
// also for clients that ask for none. A client's address that a proxy sends first is skipped. stop returns
// when every connection has ended; it may be called again.
func Serve(t testing.TB, ln net.Listener, protocols ...Protocol) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	p := port{protocols}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.serve(ctx, conn) })
		}
	})
	stop = func() {
		cancel()
		ln.Close()
		running.Wait()
	}
	t.Cleanup(stop)
	return stop
}

type port struct{ protocols []Protocol }

// choose returns the protocol for a client that offers the ALPN names.
func (p port) choose(offered ...string) Protocol {
	for _, candidate := range p.protocols {
		if slices.Contains(offered, candidate.Name) {
			return candidate
		}
	}
	return p.protocols[0]
}

// configFor implements tls.Config.GetConfigForClient. A client that offers only other names is refused by
// crypto/tls, because NextProtos has none of them.
func (p port) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	chosen := p.choose(hello.SupportedProtos...)
	return &tls.Config{
		Certificates: []tls.Certificate{*chosen.Certificate()},
		NextProtos:   []string{chosen.Name},
		ClientAuth:   chosen.ClientAuth,
		MinVersion:   tls.VersionTLS13,
	}, nil
}

func (p port) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	tc := tls.Server(&forwardedConn{Conn: conn}, &tls.Config{GetConfigForClient: p.configFor})
	if err := tc.HandshakeContext(ctx); err != nil {
		return
	}
	defer tc.Close()
	chosen := p.choose(tc.ConnectionState().NegotiatedProtocol)
	if chosen.Handler != nil {
		serveHTTP(tc, chosen.Handler)
	} else {
		chosen.Serve(ctx, tc)
	}
}

// serveHTTP serves one connection until it is closed. net/http closes connections with an ALPN name that it
// does not know, so serveHTTP hides from it that this one is TLS; requests have TLS set nevertheless.
func serveHTTP(conn *tls.Conn, h http.Handler) {
	state := conn.ConnectionState()
	queue := connqueue.New(conn.LocalAddr())
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.TLS = &state
			h.ServeHTTP(w, r)
		}),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				_ = queue.Close()
			}
		},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	// Not with the context of the port: the server must see the connection, or it would wait for it for ever.
	go queue.Put(context.Background(), struct{ net.Conn }{conn})
	_ = srv.Serve(queue)
}

// forwardedConn takes a proxy's forwarded address off the beginning where there is one, and does not verify
// it. It does so with the first Read, so that a slow client does not delay others.
type forwardedConn struct {
	net.Conn
	inner net.Conn // the rest, after the first Read
}

func (c *forwardedConn) Read(b []byte) (int, error) {
	if c.inner == nil {
		conn, _, err := authrpc.ReadForwardedFrom(c.Conn)
		if err != nil {
			return 0, err
		}
		c.inner = conn
	}
	return c.inner.Read(b)
}

// Dialer connects to the auth of a cluster that NewInMemory made. At any other address nothing listens.
func (c *Cluster) Dialer() authrpc.Dialer { return memoryDialer{c.memoryListener} }

type memoryDialer struct{ auth *testnet.Listener }

func (d memoryDialer) DialTLS(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error) {
	if addr != d.auth.Addr().String() {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	conn, err := d.auth.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	tc := tls.Client(conn, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return tc, nil
}
