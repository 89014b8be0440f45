// Package proxytest answers: which auth service does a proxy have in tests?
//
// Auth serves the calls of a proxy over TLS on loopback, with the authorities of a clustertest cluster. A
// test sets its answers.
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
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// Name is the name of the proxy that is a member of the cluster.
const Name = "proxy-1"

// Auth is a cluster with its auth service and one proxy.
type Auth struct {
	*clustertest.Cluster
	t     testing.TB
	addr  string
	proxy identity.Identity
	cert  *tls.Certificate
	host  ssh.Signer

	// Reports gets the reports of attached nodes. Reports that nobody takes are dropped once it is full.
	Reports chan authrpc.ReportNodesRequest

	// Begin, Finish and Prove answer the three calls of a login. A test sets them before the first call.
	Begin  func(authrpc.BeginLoginRequest) (authrpc.BeginLoginResponse, error)
	Finish func(authrpc.FinishOIDCRequest) (authrpc.FinishOIDCResponse, error)
	Prove  func(authrpc.ProveFactorRequest) (authrpc.ProveFactorResponse, error)

	sets chan rules.Set // from Publish to the stream of rules

	mu    sync.Mutex // guards the fields below
	nodes map[string]authrpc.NodeInfo
	down  bool
}

// New makes a cluster and serves its auth service until the test ends.
func New(t testing.TB) *Auth {
	t.Helper()
	a := &Auth{
		Cluster: clustertest.New(t),
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
	handle(s, authrpc.BeginLogin, &a.Begin)
	handle(s, authrpc.FinishOIDC, &a.Finish)
	handle(s, authrpc.ProveFactor, &a.Prove)
	a.serve(s)
	return a
}

// handle answers a route with a function that the test may set later.
func handle[Req, Res any](s *authrpc.Server, route authrpc.Route[Req, Res], fn *func(Req) (Res, error)) {
	authrpc.Handle(s, route, func(_ context.Context, _ authrpc.Caller, r Req) (Res, error) {
		return (*fn)(r)
	})
}

// Log is a logger that discards every line.
func Log() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (a *Auth) serve(h http.Handler) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		a.t.Fatal(err)
	}
	a.addr = ln.Addr().String()
	srv := &http.Server{
		Handler:  h,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	cfg := &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return a.ServiceCertificate(identity.Auth, "auth-1"), nil
		},
		NextProtos: []string{identity.ALPNAuth},
		ClientAuth: tls.RequestClientCert,
		MinVersion: tls.VersionTLS13,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(opaqueListener{tls.NewListener(clustertest.ForwardedListener(ln), cfg)})
	}()
	a.t.Cleanup(func() { srv.Close(); <-done })
}

// connKey is the key of the connection in the context of a request.
type connKey struct{}

// opaqueListener hides that its connections are TLS connections. net/http would close them, because it does
// not know the ALPN name.
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
		return authrpc.Caller{}, fault.New(fault.Unavailable, "auth", "the auth service is down", "wait")
	}
	certs := r.Context().Value(connKey{}).(opaqueConn).Conn.(*tls.Conn).ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return authrpc.Caller{}, nil
	}
	return authrpc.Caller{Identity: a.proxy, Key: certs[0].PublicKey}, nil
}

// SetDown decides whether every call fails.
func (a *Auth) SetDown(down bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down = down
}

// Register makes the auth service know of a node, which need not be attached.
func (a *Auth) Register(n authrpc.NodeInfo) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.nodes[n.Name] = n
}

// Publish sends rules to the proxy, and returns once the stream has taken them.
func (a *Auth) Publish(s rules.Set) {
	a.t.Helper()
	select {
	case a.sets <- s:
	case <-time.After(10 * time.Second):
		a.t.Fatal("no proxy watches the rules")
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

// Addr is host:port of the auth service.
func (a *Auth) Addr() string { return a.addr }

// Identity is the identity of the proxy. The methods below are those of the membership that a proxy needs.
func (a *Auth) Identity() identity.Identity { return a.proxy }

// TLSCertificate is the service certificate of the proxy.
func (a *Auth) TLSCertificate() (*tls.Certificate, error) { return a.cert, nil }

// HostKey is the host key of the proxy with its host certificate.
func (a *Auth) HostKey() (ssh.Signer, error) { return a.host, nil }

// Client makes a client that calls the auth service as the proxy.
func (a *Auth) Client() *authrpc.Client {
	cfg := identity.PinnedTLS(
		a.Pin(), clustertest.Name, identity.ALPNAuth, a.TLSCertificate, time.Now, identity.Auth)
	return authrpc.NewClient(a.addr, cfg)
}
