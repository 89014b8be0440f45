// Package port answers: who connects to auth, and with which protocol?
//
// Auth has one port. TLS 1.3 (RFC 8446) with exactly one ALPN name (RFC 7301) leads to the API
// (threshold-auth: HTTP/1.1, a client certificate is optional) or to raft (threshold-raft: the certificate
// of an auth replica is required). A client certificate must be valid in this cluster: users' under the
// user authority, machines' under the service authority. A certificate that is wrong only because it has
// expired is accepted, and the caller is marked as expired: a machine may renew with it, and a user is told
// about it. authrpc.Server refuses every other request of such a caller.
//
// Whatever is read before the client is known has a deadline, a size limit and a counter.
package port

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/backoff"
	"github.com/threshold-access/threshold/internal/connqueue"
	"github.com/threshold-access/threshold/internal/identity"
)

// Bounds of what unknown clients can make the port hold.
const (
	maxConns         = 8192             // open connections; the process may have 20,000 descriptors
	maxHandshakes    = 512              // TLS handshakes at once; beyond, the oldest is closed
	maxAnonymous     = 1024             // connections without a client certificate; the oldest is closed
	handshakeTimeout = 10 * time.Second // from accept to the end of TLS
	headerTimeout    = 10 * time.Second // for a request's header
	bodyTimeout      = 30 * time.Second // for a request, header and body
	writeTimeout     = 30 * time.Second // for each write of a response
	idleTimeout      = 2 * time.Minute  // between requests
	maxHeaderBytes   = 16 << 10
	drainTimeout     = 5 * time.Second // for calls in progress when the port closes
)

// Config says what a port needs to be made.
type Config struct {
	// Listener is the open socket. The port closes it. Required.
	Listener net.Listener
	// Log gets what an operator should know. Required.
	Log *slog.Logger
	// Now is the clock. Zero means time.Now.
	Now func() time.Time
}

// Port accepts connections and hands each to the server of its protocol. Run opens it.
//
// A connection holds a place in conns from accept to close. It is in handshakes until its handshake is over,
// and then in anonymous until it is closed, if it showed no certificate.
type Port struct {
	cfg        Config
	api        *connqueue.Listener // connections of the API, for the HTTP server
	raft       *raftLayer          // connections of raft, for the store
	counts     counters
	conns      chan struct{} // one element for each open connection
	handshakes evictingSet
	anonymous  evictingSet
}

// RunConfig says what a port needs to serve. It is known only after the cluster's keys are open, and does not
// change while the port runs, except for the certificate.
type RunConfig struct {
	Cluster     string
	Pin         identity.Pin            // of the cluster root, for dialling other replicas
	Roots       identity.Roots          // which client certificates are trusted
	Certificate func() *tls.Certificate // the current one, with its chain and the cluster root
	Handler     http.Handler            // the API; it learns by CallerOf who calls
	// VerifyForwarded verifies a forwarded address and returns the name of the proxy that signed it.
	VerifyForwarded func(context.Context, authrpc.ForwardedFrom) (string, error)
}

// New makes a port. It accepts no connection before Run.
func New(cfg Config) (*Port, error) {
	if cfg.Listener == nil || cfg.Log == nil {
		return nil, authPortIncomplete.New("port.New")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	addr := cfg.Listener.Addr()
	p := &Port{
		cfg:   cfg,
		api:   connqueue.New(addr),
		raft:  &raftLayer{Listener: connqueue.New(addr), now: cfg.Now},
		conns: make(chan struct{}, maxConns),
	}
	p.handshakes.max, p.handshakes.evicted = maxHandshakes, &p.counts.evicted
	p.anonymous.max, p.anonymous.evicted = maxAnonymous, &p.counts.evicted
	return p, nil
}

// Run serves until ctx ends. Then it closes the socket, lets calls in progress end for drainTimeout, closes
// every connection of the API and returns nil. Connections of raft belong to the store, which closes them.
// Run returns an error only if the socket or the HTTP server fails.
func (p *Port) Run(ctx context.Context, cfg RunConfig) error {
	p.raft.config.Store(&cfg)
	server := p.newServer(ctx, cfg.Handler)
	g, ctx := errgroup.WithContext(ctx)
	// The first two goroutines end when the third closes the socket and shuts the server down.
	g.Go(func() error { return p.accept(ctx, cfg) })
	g.Go(func() error {
		if err := server.Serve(p.api); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		_ = p.cfg.Listener.Close()
		// ctx has ended, so the time to drain needs a context of its own.
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if server.Shutdown(drain) != nil {
			_ = server.Close() // calls are still in progress
		}
		return nil
	})
	return g.Wait()
}

// Close closes the socket of a port that never ran.
func (p *Port) Close() error { return p.cfg.Listener.Close() }

func (p *Port) newServer(ctx context.Context, handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           withWriteDeadlines(handler),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(p.cfg.Log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c.(*clientConn))
		},
	}
}

// withWriteDeadlines gives each write of a response a deadline of its own: a stream may last for ever, a
// client that has stopped reading may not.
func withWriteDeadlines(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(&deadlineWriter{ResponseWriter: w, control: http.NewResponseController(w)}, r)
	})
}

// deadlineWriter sets the write deadline before each write.
type deadlineWriter struct {
	http.ResponseWriter
	control *http.ResponseController
}

// Unwrap lets http.ResponseController reach the writer beneath, to flush.
func (w *deadlineWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *deadlineWriter) Write(b []byte) (int, error) {
	if err := w.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write(b)
}

// acceptRetry is the pause after an accept that failed, as when the process has no descriptors left.
const acceptRetry = 50 * time.Millisecond

// accept accepts connections until ctx ends, and then returns nil. Each connection is handled by a goroutine
// of its own, which ends when the connection is handed on or closed; accept waits for all of them. A
// connection beyond maxConns is closed at once. accept returns a fault if the socket fails for good.
func (p *Port) accept(ctx context.Context, cfg RunConfig) error {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	for {
		conn, err := p.cfg.Listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if err != nil {
			if !temporary(err) {
				return authPortFailed.Wrap(err, "port.Run")
			}
			p.cfg.Log.Warn("a connection could not be accepted", "err", err)
			backoff.Sleep(ctx, acceptRetry)
			continue
		}
		p.counts.accepted.Add(1)
		if !tryAcquire(p.conns) {
			p.counts.full.Add(1)
			_ = conn.Close()
			continue
		}
		remove := p.handshakes.add(conn) // not in the goroutine: the set must be in the order of arrival
		handlers.Go(func() {
			defer remove()
			p.handle(ctx, conn, cfg)
		})
	}
}

// temporary reports whether another accept may succeed a moment after this error.
func temporary(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && !errors.Is(err, net.ErrClosed)
}

// handle does the handshake and hands the connection to the server of its protocol: the store for raft, the
// HTTP server for the API. A connection whose handshake fails is counted as refused and closed.
func (p *Port) handle(ctx context.Context, raw net.Conn, cfg RunConfig) {
	conn, err := p.handshake(ctx, raw, cfg)
	if err != nil {
		p.counts.refused.Add(1)
		p.cfg.Log.Debug("handshake refused", "from", raw.RemoteAddr().String(), "err", err)
		linger(raw) // so that the client reads the TLS alert before the connection is closed
		_ = conn.Close()
		return
	}
	if conn.Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol == identity.ALPNRaft {
		_ = p.raft.Put(ctx, conn) // after an error it is closed
		return
	}
	_ = p.api.Put(ctx, conn)
}

// Bounds of linger.
const (
	lingerTime  = time.Second
	lingerBytes = 64 << 10
)

// linger reads what a refused client still sends, within bounds. Most clients have sent their request
// already, and closing a socket with unread bytes would reset the connection before the client reads the
// TLS alert.
func linger(raw net.Conn) {
	if tcp, ok := raw.(interface{ CloseWrite() error }); !ok || tcp.CloseWrite() != nil {
		return
	}
	if raw.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, raw, lingerBytes)
	}
}

// tryAcquire takes a place if one is free, and reports whether it did. It does not wait. release gives the
// place back.
func tryAcquire(places chan struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	default:
		return false
	}
}

func release(places chan struct{}) { <-places }
