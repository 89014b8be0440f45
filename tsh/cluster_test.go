package tsh_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
)

const clusterName = clustertest.Name

// testCluster is a cluster as tsh sees it: one port that serves pings, the auth service and dial requests.
// This test answers the calls of users and has small nodes of its own.
type testCluster struct {
	*clustertest.Cluster
	t     testing.TB
	addr  string             // of the port
	proxy identity.MachineID // its id
	chain []rules.Signed     // of authorities, as redeem sends it
	dials chan struct{}      // gets an element for each dial request, as far as there is room

	mu      sync.Mutex // guards what follows
	logins  []identity.Login
	nodes   []authrpc.NodeInfo
	hosts   map[string]*testNode // by whole name
	calls   []string             // routes of the auth service that were called, and dial requests
	pingPin identity.Pin         // in the ping document
	docs    map[string]authrpc.Resource
	// headlessAnswers has the result of each poll of a headless login: "approve", "refuse", "away" or "wait".
	headlessAnswers []string
	certifyKey      []byte // not nil: redeem certifies this SSH key instead of the requested one
	// locks are the locks of machines that auth sends, and proxyLocks those that proxies send; nil: they send
	// none.
	locks, proxyLocks *rules.Signed
}

func newTestCluster(t testing.TB) *testCluster {
	t.Helper()
	c := clustertest.NewInMemory(t)
	tc := &testCluster{
		Cluster: c,
		t:       t,
		chain:   []rules.Signed{c.SignAuthorities()},
		dials:   make(chan struct{}, 1),
		hosts:   map[string]*testNode{},
		logins:  []identity.Login{"alice"},
		pingPin: c.Pin(),
		docs:    map[string]authrpc.Resource{},
	}
	clustertest.Answer(c, authrpc.RedeemLogin, tc.redeem)
	clustertest.Answer(c, authrpc.BeginHeadless, tc.beginHeadless)
	clustertest.Answer(c, authrpc.RedeemHeadless, tc.redeemHeadless)
	clustertest.Answer(c, authrpc.GetMachineLocks, tc.getMachineLocks)
	clustertest.Answer(c, authrpc.ListNodes, tc.list)
	clustertest.Answer(c, authrpc.GetResources, tc.get)
	clustertest.Answer(c, authrpc.ApplyResource, tc.apply)
	clustertest.Answer(c, authrpc.RemoveResource, tc.remove)
	tc.addr, tc.proxy = tc.listen("proxy-1")
	return tc
}

// caFile writes a file for --ca-file: the authority of the web certificate.
func (tc *testCluster) caFile() string {
	tc.t.Helper()
	path := filepath.Join(tc.t.TempDir(), "ca.pem")
	body := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tc.Root().Raw})
	if err := os.WriteFile(path, body, 0o600); err != nil {
		tc.t.Fatal(err)
	}
	return path
}

// listen serves a port of the cluster until the test ends, as a proxy does: pages, the auth service passed
// through, and dial requests. It returns the address of the port and the id of the proxy.
func (tc *testCluster) listen(name string) (addr string, id identity.MachineID) {
	tc.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tc.t.Fatal(err)
	}
	machine := tc.Machine(identity.Proxy, name, nil)
	proxy := tc.MachineCertificate(machine, func(c *x509.Certificate) {
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	})
	proxyCertificate := func() *tls.Certificate { return proxy }
	auth := tc.AuthProtocol()
	serveCall := auth.Handler
	auth.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		tc.recordCall(r.URL.Path)
		serveCall.ServeHTTP(rw, r)
	})
	clustertest.Serve(tc.t, ln,
		clustertest.Protocol{Name: "http/1.1", Certificate: proxyCertificate, Handler: tc.web()},
		auth,
		clustertest.Protocol{
			Name:        identity.ALPNDial,
			Certificate: proxyCertificate,
			ClientAuth:  tls.RequireAnyClientCert,
			Serve:       func(_ context.Context, conn *tls.Conn) { tc.serveDial(name, conn) },
		})
	return ln.Addr().String(), machine.ID
}

func (tc *testCluster) web() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+dial.PingPath, func(rw http.ResponseWriter, _ *http.Request) {
		tc.mu.Lock()
		defer tc.mu.Unlock()
		ping := dial.Ping{V: 1, Cluster: clusterName, Pin: tc.pingPin, Time: tc.Now()}
		_ = json.NewEncoder(rw).Encode(ping)
	})
	return mux
}

func (tc *testCluster) recordCall(call string) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	tc.calls = append(tc.calls, call)
}

// takeCalls returns the recorded calls and forgets them.
func (tc *testCluster) takeCalls() []string {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	calls := tc.calls
	tc.calls = nil
	return calls
}

// redeem certifies keys for alice.
func (tc *testCluster) redeem(r authrpc.RedeemLoginRequest) (res authrpc.RedeemLoginResponse, err error) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	challenge, ok := strings.CutPrefix(r.Code, "good-")
	if !ok || !authrpc.ChallengeMatches(challenge, r.Verifier, r.SSHKey, r.X509Key) {
		return res, faulttest.New(fault.Denied, "login", "the login code is not good", "run: tsh login")
	}
	if tc.certifyKey != nil {
		r.SSHKey = tc.certifyKey
	}
	sshKey, err := ssh.ParsePublicKey(r.SSHKey)
	if err != nil {
		return res, err
	}
	x509Key, err := x509.ParsePKIXPublicKey(r.X509Key)
	if err != nil {
		return res, err
	}
	alice := tc.User("alice@example.com", "ops")
	alice.IssuedAt = tc.Now().UTC().Truncate(time.Second)
	alice.AuthTime, alice.FactorTime = alice.IssuedAt.Add(-2*time.Minute), alice.IssuedAt.Add(-time.Minute)
	res = authrpc.RedeemLoginResponse{
		Identity:    alice,
		X509:        tc.UserChain(x509Key, alice),
		Logins:      tc.logins,
		Authorities: tc.chain,
		Time:        tc.Now(),

		MachineLocks: tc.locks,
	}
	if len(tc.logins) > 0 { // as auth: a user without logins gets no SSH certificate
		var principals []string
		for _, login := range tc.logins {
			principals = append(principals, string(login))
		}
		res.SSHCert = tc.UserCert(sshKey, alice, nil, principals...).Marshal()
	}
	return res, nil
}

// pageSize is small, so that lists have several pages.
const pageSize = 2

func (tc *testCluster) list(r authrpc.ListNodesRequest) (res authrpc.ListNodesResponse, err error) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	for _, n := range tc.nodes {
		firstLabel, _, _ := strings.Cut(n.Name, ".")
		names := []string{"", n.Name, firstLabel, string(n.ID), n.Name + "." + clusterName}
		if !slices.Contains(names, r.Name) || n.Name <= r.After {
			continue
		}
		if r.Labels["env"] != "" && r.Labels["env"] != n.Labels["env"] {
			continue
		}
		if len(res.Nodes) == pageSize {
			res.Next = res.Nodes[pageSize-1].Name
			break
		}
		res.Nodes = append(res.Nodes, n)
	}
	return res, nil
}

func (tc *testCluster) get(r authrpc.GetResourcesRequest) (res authrpc.GetResourcesResponse, err error) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	for _, d := range tc.docs {
		isKind := strings.TrimSuffix(d.Kind, "s")+"s" == string(r.Kind)
		if isKind && (r.Name == "" || r.Name == d.Metadata.Name) {
			res.Resources = append(res.Resources, d)
		}
	}
	return res, nil
}

func (tc *testCluster) apply(r authrpc.ApplyResourceRequest) (res authrpc.ApplyResourceResponse, err error) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	d := r.Resource
	if d.Kind == "token" {
		t := authrpc.Token{Kind: identity.Node, Pin: tc.Pin()}
		d.Metadata.Name = "node-1"
		res.Secret = t.String()
	}
	_, exists := tc.docs[d.Metadata.Name]
	d.Metadata.Revision = uint64(len(tc.docs) + 1)
	tc.docs[d.Metadata.Name] = d
	res.Created, res.Resource = !exists, d
	return res, nil
}

func (tc *testCluster) remove(
	r authrpc.RemoveResourceRequest,
) (res authrpc.RemoveResourceResponse, err error) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	if _, exists := tc.docs[r.Name]; !exists {
		return res, faulttest.New(fault.NotFound, "rm", "there is no "+r.Name, "see: tsh get "+string(r.Kind))
	}
	delete(tc.docs, r.Name)
	return res, nil
}

// addNode adds an online node.
func (tc *testCluster) addNode(name string) *testNode {
	tc.t.Helper()
	n := tc.newNode(name)
	tc.mu.Lock()
	defer tc.mu.Unlock()
	tc.hosts[name] = n
	tc.nodes = append(tc.nodes, authrpc.NodeInfo{
		ID:     n.id,
		Name:   name,
		Online: true,
		Labels: identity.Labels{"env": "prod"},
		Logins: tc.logins,
	})
	return n
}

// newNode returns a node with a host certificate for the name. It is not in the cluster's list.
func (tc *testCluster) newNode(name string) *testNode {
	id := tc.Machine(identity.Node, name, nil).ID
	return &testNode{id: id, cert: tc.HostSigner(name, name+"."+clusterName, string(id))}
}

// serveDial serves a dial request, as a proxy does, but whatever is locked.
func (tc *testCluster) serveDial(proxy string, c *tls.Conn) {
	if _, err := tc.VerifyPeer(c.ConnectionState().PeerCertificates, identity.User); err != nil {
		tc.t.Errorf("dial: %v", err)
		return
	}
	req, err := dial.ReadRequest(c)
	if err != nil {
		return
	}
	call := "dial " + req.Node
	if proxy != "proxy-1" {
		call += " by " + proxy
	}
	tc.recordCall(call)
	select {
	case tc.dials <- struct{}{}:
	default:
	}
	tc.mu.Lock()
	n, ok := tc.hosts[strings.TrimSuffix(req.Node, "."+clusterName)]
	locks := tc.proxyLocks
	tc.mu.Unlock()
	if !ok {
		msg := "there is no node " + req.Node + " that you may reach"
		f := faulttest.New(fault.NotFound, "proxy.dial", msg, "see: tsh ls")
		_ = dial.WriteReply(c, dial.Reply{Fault: f})
		_, _ = io.CopyN(io.Discard, c, 1<<16)
		return
	}
	reply := dial.Reply{NodeFeatures: n.features}
	if locks != nil {
		reply.OfferMachineLocks(req, revisionOf(tc.t, *locks), *locks)
	}
	if dial.WriteReply(c, reply) == nil {
		n.serve(tc, c)
	}
}
