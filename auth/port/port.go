// Package port answers: who is at auth's door, and what do they speak?
//
// Auth has one port. TLS 1.3 with exactly one ALPN name leads to the API (threshold-auth: HTTP/1.1, a client
// certificate is optional) or to raft (threshold-raft: the certificate of an auth replica is required). A
// client certificate that is shown must be good: of the user tree for people, of the service tree for
// machines, of this cluster. One that has merely ended is let in and flagged, because a machine may renew
// with it and a person gets told so; authrpc.Server refuses it everything else.
//
// Whatever is read before a caller is known has a deadline, a bound and a counter.
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
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Bounds of what strangers can make the port hold.
const (
	maxConns         = 8192             // open connections; the process may have 20,000 descriptors
	maxHandshakes    = 512              // TLS handshakes going on at once; the oldest makes room
	maxAnonymous     = 1024             // open connections without a client certificate; the oldest makes room
	handshakeTimeout = 10 * time.Second // from accept to the end of TLS
	headerTimeout    = 10 * time.Second // for a request's header
	bodyTimeout      = 30 * time.Second // for a request, header and body
	writeTimeout     = 30 * time.Second // for each piece of an answer
	idleTimeout      = 2 * time.Minute  // between requests
	maxHeaderBytes   = 16 << 10
	drainTimeout     = 5 * time.Second // for calls that are under way when the port closes
)

// Config says what a port needs.
type Config struct {
	// Listener is the open socket. The port closes it. Required.
	Listener net.Listener
	// Log gets what an operator should know. Required.
	Log *slog.Logger
	// Now is the clock. Zero means time.Now.
	Now func() time.Time
}

// Port is the door. Run opens it.
type Port struct {
	cfg        Config
	api        *queue
	raft       *raftLayer
	counts     counters
	conns      chan struct{} // holds one place for each
	handshakes evictingSet
	anonymous  evictingSet
}

// RunConfig are what the port lets people in by. They are known once the cluster's keys are open.
type RunConfig struct {
	Cluster     string
	Pin         identity.Pin
	Roots       func() identity.Roots   // the two trees, as of now
	Certificate func() *tls.Certificate // auth's own, with its chain and the cluster root, as of now
	Handler     http.Handler            // the API; CallerOf tells it who asks
	// VerifyForwarded verifies a proxy's word from where a connection comes that it passes through, and
	// returns the proxy's name.
	VerifyForwarded func(context.Context, authrpc.ForwardedFrom) (string, error)
}

// New makes a port. Nobody is let in before Run.
func New(cfg Config) (*Port, error) {
	if cfg.Listener == nil || cfg.Log == nil {
		return nil, fault.New(
			fault.Internal,
			"port.New",
			"the port lacks a listener or a log",
			"report this defect",
		)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	addr := cfg.Listener.Addr()
	p := &Port{
		cfg:   cfg,
		api:   newQueue(addr),
		raft:  &raftLayer{queue: newQueue(addr), now: cfg.Now},
		conns: make(chan struct{}, maxConns),
	}
	p.handshakes.max, p.handshakes.evicted = maxHandshakes, &p.counts.evicted
	p.anonymous.max, p.anonymous.evicted = maxAnonymous, &p.counts.evicted
	return p, nil
}

// Run lets callers in on these terms until ctx ends; then it gives calls under way a moment, closes every
// connection and returns nil.
func (p *Port) Run(ctx context.Context, terms RunConfig) error {
	p.raft.config.Store(&terms)
	server := p.server(ctx, terms.Handler)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.accept(ctx, terms) })
	g.Go(func() error {
		if err := server.Serve(p.api); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		_ = p.cfg.Listener.Close() // ends accept
		grace, done := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer done()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
		return nil
	})
	return g.Wait()
}

// Close closes the socket of a port that was never run.
func (p *Port) Close() error { return p.cfg.Listener.Close() }

func (p *Port) server(ctx context.Context, handler http.Handler) *http.Server {
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

// withWriteDeadlines gives each piece of an answer its own deadline: a stream may last, a reader that stands
// still may not.
func withWriteDeadlines(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(&deadlineWriter{ResponseWriter: w, control: http.NewResponseController(w)}, r)
	})
}

type deadlineWriter struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (p *deadlineWriter) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func (p *deadlineWriter) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return p.ResponseWriter.Write(b)
}

// accept takes connections until ctx ends, each handled by a goroutine of its own until its kind is known; it
// waits for those.
func (p *Port) accept(ctx context.Context, terms RunConfig) error {
	var owned sync.WaitGroup
	defer owned.Wait()
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
				return fault.Wrap(
					err,
					fault.Internal,
					"port.Run",
					"the auth port takes no more connections",
					"look at the listener's address and the limits of open files",
				)
			}
			p.cfg.Log.Warn("a connection could not be taken", "err", err)
			sleep(ctx)
			continue
		}
		p.counts.accepted.Add(1)
		if !acquire(p.conns) {
			p.counts.full.Add(1)
			_ = conn.Close()
			continue
		}
		leave := p.handshakes.add(conn) // here, so that the order is the one they came in
		owned.Go(func() {
			defer leave()
			p.handle(ctx, conn, terms)
		})
	}
}

// acceptPause is how long the port rests when the machine has no descriptors left.
const acceptPause = 50 * time.Millisecond

func sleep(ctx context.Context) {
	t := time.NewTimer(acceptPause)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// temporary reports whether an accept may succeed a moment later.
func temporary(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && !errors.Is(err, net.ErrClosed)
}

// handle does the handshake and hands the connection on. What it does not hand on it closes.
func (p *Port) handle(ctx context.Context, raw net.Conn, terms RunConfig) {
	g, err := p.handshake(ctx, raw, terms)
	if err != nil {
		p.counts.refused.Add(1)
		p.cfg.Log.Debug("handshake refused", "from", raw.RemoteAddr().String(), "err", err)
		linger(raw)
		_ = g.Close()
		return
	}
	if g.Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol == identity.ALPNRaft {
		p.raft.put(ctx, g)
		return
	}
	p.api.put(ctx, g)
}

// handshake finds out who came. The guest it returns holds the connection's places, also beside an error.
func (p *Port) handshake(ctx context.Context, raw net.Conn, terms RunConfig) (*clientConn, error) {
	g := &clientConn{Conn: raw, now: p.cfg.Now, release: func() { release(p.conns) }}
	ctx, done := context.WithTimeout(ctx, handshakeTimeout)
	defer done()
	plain, err := g.readForwarded(ctx, raw, terms)
	if err != nil {
		return g, err
	}
	conn := tls.Server(plain, p.tlsConfig(terms, g))
	if err := conn.HandshakeContext(ctx); err != nil {
		return g, err
	}
	g.Conn = conn
	if g.peer.Kind != authrpc.Anonymous {
		return g, nil
	}
	p.counts.anonymous.Add(1)
	leave := p.anonymous.add(raw)
	g.release = func() { leave(); release(p.conns) }
	return g, nil
}

// A refused client has mostly sent its request already; closing a socket with bytes unread would destroy the
// alert on its way.
const (
	lingerTime  = time.Second
	lingerBytes = 64 << 10
)

func linger(raw net.Conn) {
	if tcp, ok := raw.(interface{ CloseWrite() error }); !ok || tcp.CloseWrite() != nil {
		return
	}
	if raw.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, raw, lingerBytes)
	}
}

func acquire(slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func release(slots chan struct{}) { <-slots }
