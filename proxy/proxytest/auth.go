// Package proxytest answers: what does a proxy meet on the other side? It is an auth for tests, served over
// real TLS on loopback under a membertest cluster, whose answers a test sets.
package proxytest

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/member/membertest"
	"github.com/threshold-access/threshold/internal/rules"
)

// Name is the proxy's.
const Name = "proxy-1"

// Auth is the cluster, its auth, and one proxy that is a member of it.
type Auth struct {
	*membertest.Cluster
	t     testing.TB
	addr  string
	proxy identity.Identity
	cert  *tls.Certificate
	host  ssh.Signer

	// Reports gets what the proxy reports.
	Reports chan authrpc.ReportNodesRequest

	mu     sync.Mutex // guards what follows
	nodes  map[string]authrpc.NodeInfo
	down   bool
	sets   chan rules.Set
	Begin  func(authrpc.BeginLoginRequest) (authrpc.BeginLoginResponse, error)
	Finish func(authrpc.FinishOIDCRequest) (authrpc.FinishOIDCResponse, error)
	Prove  func(authrpc.ProveFactorRequest) (authrpc.ProveFactorResponse, error)
}

// New makes a cluster and serves its auth until the test ends.
func New(t testing.TB) *Auth {
	t.Helper()
	a := &Auth{
		Cluster: membertest.New(t),
		t:       t,
		Reports: make(chan authrpc.ReportNodesRequest, 64),
		nodes:   map[string]authrpc.NodeInfo{},
		sets:    make(chan rules.Set),
	}
	a.proxy = a.Machine(identity.Proxy, Name, nil)
	a.cert = a.MachineCertificate(a.proxy, nil)
	a.host = a.HostSigner(Name, "127.0.0.1")
	s := authrpc.NewServer(a.caller, Log())
	authrpc.HandleStream(s, authrpc.WatchRules, a.watch)
	authrpc.Handle(s, authrpc.ReportNodes, a.report)
	authrpc.Handle(s, authrpc.LocateNode, a.locate)
	authrpc.Handle(
		s,
		authrpc.BeginLogin,
		func(_ context.Context, _ authrpc.Caller, r authrpc.BeginLoginRequest) (authrpc.BeginLoginResponse, error) {
			return a.Begin(r)
		},
	)
	authrpc.Handle(
		s,
		authrpc.FinishOIDC,
		func(_ context.Context, _ authrpc.Caller, r authrpc.FinishOIDCRequest) (authrpc.FinishOIDCResponse, error) {
			return a.Finish(r)
		},
	)
	authrpc.Handle(
		s,
		authrpc.ProveFactor,
		func(_ context.Context, _ authrpc.Caller, r authrpc.ProveFactorRequest) (authrpc.ProveFactorResponse, error) {
			return a.Prove(r)
		},
	)
	a.serve(s)
	return a
}

// Log discards.
func Log() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (a *Auth) serve(h http.Handler) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		a.t.Fatal(err)
	}
	a.addr = ln.Addr().String()
	srv := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(opaqueListener{
			tls.NewListener(
				membertest.ForwardedListener(ln),
				&tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
					return a.ServiceCertificate(identity.Auth, "auth-1"), nil
				}, NextProtos: []string{identity.ALPNAuth}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13},
			),
		})
	}()
	a.t.Cleanup(func() { srv.Close(); <-done })
}

type connKey struct{}

// opaqueListener keeps net/http from hanging up on an ALPN name that it does not know.
type opaqueListener struct{ net.Listener }

func (l opaqueListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return opaqueConn{c}, nil
}

type opaqueConn struct{ net.Conn }

func (a *Auth) caller(r *http.Request) (authrpc.Caller, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.down {
		return authrpc.Caller{}, fault.New(fault.Unavailable, "auth", "auth is down", "wait")
	}
	certs := r.Context().Value(connKey{}).(opaqueConn).Conn.(*tls.Conn).ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return authrpc.Caller{}, nil
	}
	return authrpc.Caller{Identity: a.proxy, Key: certs[0].PublicKey}, nil
}

// Down makes every call fail, or ends that.
func (a *Auth) Down(down bool) { a.mu.Lock(); a.down = down; a.mu.Unlock() }

// Register makes auth know of a node that may be attached nowhere.
func (a *Auth) Register(n authrpc.NodeInfo) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.nodes[n.Name] = n
}

// Publish sends a set to the proxy that watches, and returns when it has gone out.
func (a *Auth) Publish(s rules.Set) {
	a.t.Helper()
	select {
	case a.sets <- s:
	case <-time.After(10 * time.Second):
		a.t.Fatal("nobody watches the rules")
	}
}

func (a *Auth) watch(
	ctx context.Context,
	_ authrpc.Caller,
	_ authrpc.WatchRulesRequest,
	send func(authrpc.RulesUpdate) error,
) error {
	if err := send(authrpc.RulesUpdate{Set: a.SignRules()}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s := <-a.sets:
			if err := send(authrpc.RulesUpdate{Set: s}); err != nil {
				return err
			}
		}
	}
}

func (a *Auth) report(
	_ context.Context,
	_ authrpc.Caller,
	r authrpc.ReportNodesRequest,
) (authrpc.ReportNodesResponse, error) {
	select {
	case a.Reports <- r:
	default:
	}
	return authrpc.ReportNodesResponse{ReportAfter: 20 * time.Second}, nil
}

func (a *Auth) locate(
	_ context.Context,
	_ authrpc.Caller,
	r authrpc.LocateNodeRequest,
) (res authrpc.LocateNodeResponse, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n, ok := a.nodes[r.Node]; ok {
		res.Nodes = append(res.Nodes, n)
	}
	return res, nil
}

// Addr is where this auth answers.
func (a *Auth) Addr() string { return a.addr }

// Identity and what follows make Auth a proxy's membership.
func (a *Auth) Identity() identity.Identity { return a.proxy }

// TLSCertificate is the proxy's own.
func (a *Auth) TLSCertificate() (*tls.Certificate, error) { return a.cert, nil }

// HostKey is the proxy's host key with its certificate.
func (a *Auth) HostKey() (ssh.Signer, error) { return a.host, nil }

// Client calls auth as the proxy.
func (a *Auth) Client() *authrpc.Client {
	return authrpc.NewClient(
		a.addr,
		identity.PinnedTLS(
			a.Pin(),
			membertest.Name,
			identity.ALPNAuth,
			a.TLSCertificate,
			time.Now,
			identity.Auth,
		),
	)
}
