// Package proxytest answers: which auth service does a proxy have in tests?
//
// Auth is a cluster of clustertest with one proxy, and answers the calls that only proxies make.
package proxytest

import (
	"context"
	"crypto"
	"crypto/tls"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/internal/wire"
)

// Name is the name of the proxy that is a member of the cluster.
const Name = "proxy-1"

// Auth is a cluster with its auth service and one proxy. Until a test gives clustertest.Answer the three
// calls of a login, they fail.
type Auth struct {
	*clustertest.Cluster
	t     testing.TB
	proxy identity.Identity
	cert  *tls.Certificate
	host  ssh.Signer

	// Reports gets the reports of attached nodes. Reports that nobody takes are dropped once it is full.
	Reports chan authrpc.ReportNodesRequest
	// Acknowledgements gets the calls about the rules in force. Calls that nobody takes are dropped once it
	// is full.
	Acknowledgements chan authrpc.ReportAcknowledgementsRequest

	sets chan rules.Set // from Publish to the stream of rules

	mu    sync.Mutex // guards nodes
	nodes map[string]authrpc.NodeInfo
}

// New makes a cluster and serves its auth service until the test ends.
func New(t testing.TB) *Auth {
	t.Helper()
	a := &Auth{
		Cluster:          clustertest.New(t),
		t:                t,
		Reports:          make(chan authrpc.ReportNodesRequest, 64),
		Acknowledgements: make(chan authrpc.ReportAcknowledgementsRequest, 64),
		nodes:            map[string]authrpc.NodeInfo{},
		sets:             make(chan rules.Set),
	}
	a.proxy = a.Machine(identity.Proxy, Name, nil)
	a.cert = a.MachineCertificate(a.proxy, nil)
	a.host = a.HostSigner(Name, "127.0.0.1")
	clustertest.HandleStream(a.Cluster, authrpc.WatchRules, a.watch)
	clustertest.Answer(a.Cluster, authrpc.ReportNodes, a.report)
	clustertest.Answer(a.Cluster, authrpc.ReportAcknowledgements, a.acknowledge)
	clustertest.Answer(a.Cluster, authrpc.LocateNode, a.locate)
	return a
}

// Log is a logger that discards every line.
func Log() *slog.Logger { return slog.New(slog.DiscardHandler) }

// SetDown decides whether every call fails.
func (a *Auth) SetDown(down bool) {
	if down {
		a.Refuse(faulttest.New(fault.Unavailable, "auth", "the auth service is down", "wait"))
	} else {
		a.Refuse(nil)
	}
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

// watch serves the stream of rules: the current rules at once, and then each set that Publish sends.
func (a *Auth) watch(
	ctx context.Context,
	_ authrpc.Caller,
	_ authrpc.WatchRulesRequest,
	send func(authrpc.RulesUpdate) error,
) error {
	sendAll := func(s rules.Set) error {
		feed, err := rules.NewFeed(s)
		if err != nil {
			return err
		}
		pieces, head := feed.Next(map[string]rules.Digest{})
		for _, piece := range append(pieces, head) {
			if err := send(authrpc.RulesUpdate{Piece: piece}); err != nil {
				return err
			}
		}
		return nil
	}
	if err := sendAll(a.SignRules()); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s := <-a.sets:
			if err := sendAll(s); err != nil {
				return err
			}
		}
	}
}

func (a *Auth) report(r authrpc.ReportNodesRequest) (authrpc.ReportNodesResponse, error) {
	select {
	case a.Reports <- r:
	default:
	}
	return authrpc.ReportNodesResponse{ReportAfter: 20 * time.Second}, nil
}

func (a *Auth) acknowledge(
	r authrpc.ReportAcknowledgementsRequest,
) (res authrpc.ReportAcknowledgementsResponse, err error) {
	select {
	case a.Acknowledgements <- r:
	default:
	}
	return res, nil
}

// IgnoreAcknowledgements is for tunnels.Config.Acknowledge in tests of something else.
func IgnoreAcknowledgements(identity.MachineID) (take func([]byte), end func()) {
	return func([]byte) {}, func() {}
}

// locate answers with the registered nodes of that name.
func (a *Auth) locate(r authrpc.LocateNodeRequest) (res authrpc.LocateNodeResponse, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n, ok := a.nodes[r.Node]; ok {
		res.Nodes = append(res.Nodes, n)
	}
	return res, nil
}

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
	return authrpc.NewClient(a.Addr(), cfg)
}

// ProxyID is the id of the proxy called Name.
func (a *Auth) ProxyID() identity.MachineID { return a.proxy.ID }

// Greeting is what a node with this id and certificate says of itself when it attaches.
func Greeting(id identity.MachineID, cert *tls.Certificate, version string) tunnel.Node {
	return tunnel.Node{
		ID:       id,
		Key:      cert.PrivateKey.(crypto.Signer),
		Version:  version,
		Instance: identity.NewInstanceID(),
		Features: wire.Features{dial.EarlyRequests},
		Services: []tunnel.Service{tunnel.SSH},
		Now:      time.Now,
	}
}

// Header is the header of a stream from a client of that proxy.
func (a *Auth) Header() tunnel.Header {
	return tunnel.Header{
		Service:    tunnel.SSH,
		From:       netip.MustParseAddrPort("192.0.2.7:5000"),
		Protocol:   "dial",
		ProxyID:    a.proxy.ID,
		Proxy:      Name,
		Connection: identity.NewConnectionID(),
	}
}
