package clustertest_test

import (
	"crypto/tls"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newClient makes a client of a cluster's auth with a certificate. Nil means none.
func newClient(t *testing.T, c *clustertest.Cluster, cert *tls.Certificate) *authrpc.Client {
	t.Helper()
	own := func() (*tls.Certificate, error) { return cert, nil }
	if cert == nil {
		own = nil
	}
	cfg := identity.PinnedTLS(c.Pin(), clustertest.Name, identity.ALPNAuth, own, time.Now, identity.Auth)
	client := authrpc.NewClientWithDialer(c.Dialer(), c.Addr(), cfg)
	t.Cleanup(client.Close)
	return client
}

func TestATestReplacesTheAnswersOfARoute(t *testing.T) {
	t.Parallel()
	c := clustertest.NewInMemory(t)
	client := newClient(t, c, c.UserCertificate(c.User("alice@example.com"), nil))
	call := func() (authrpc.ListNodesResponse, error) {
		return authrpc.Call(t.Context(), client, authrpc.ListNodes, authrpc.ListNodesRequest{})
	}
	if _, err := call(); err == nil {
		t.Error("got an answer of a route without one, want an error")
	}
	for _, name := range []string{"web-1", "web-2"} {
		clustertest.Answer(c, authrpc.ListNodes,
			func(authrpc.ListNodesRequest) (authrpc.ListNodesResponse, error) {
				return authrpc.ListNodesResponse{Nodes: []authrpc.NodeInfo{{Name: name}}}, nil
			})
		if res, err := call(); err != nil || len(res.Nodes) != 1 || res.Nodes[0].Name != name {
			t.Errorf("got %+v, %v, want %s", res, err, name)
		}
	}
	c.Refuse(faulttest.New(fault.Unavailable, "auth", "auth is away", "wait"))
	if _, err := call(); !fault.Is(err, fault.Unavailable) {
		t.Errorf("after Refuse: got %v, want the kind unavailable", err)
	}
}

func TestCallersAreVerified(t *testing.T) {
	t.Parallel()
	c, other := clustertest.NewInMemory(t), clustertest.NewInMemory(t)
	clustertest.Answer(c, authrpc.LocateNode,
		func(authrpc.LocateNodeRequest) (res authrpc.LocateNodeResponse, err error) { return res, nil })
	for _, tt := range []struct {
		name string
		cert *tls.Certificate
		want fault.Kind // empty: the call is answered
	}{
		{"a proxy", c.ServiceCertificate(identity.Proxy, "proxy-1"), ""},
		{"a user", c.UserCertificate(c.User("alice@example.com"), nil), fault.Denied},
		{"a proxy of another cluster", other.ServiceCertificate(identity.Proxy, "proxy-1"), fault.Denied},
		{"nobody", nil, fault.Unauthenticated},
	} {
		client := newClient(t, c, tt.cert)
		_, err := authrpc.Call(t.Context(), client, authrpc.LocateNode, authrpc.LocateNodeRequest{Node: "x"})
		if fault.KindOf(err) != tt.want || (err == nil) != (tt.want == "") {
			t.Errorf("%s: got %v, want kind %q", tt.name, err, tt.want)
		}
	}
}

// What the cluster issues passes the verifiers of real machines, and fails in another cluster.
func TestCertificatesVerify(t *testing.T) {
	t.Parallel()
	c, other := clustertest.NewInMemory(t), clustertest.NewInMemory(t)
	user := c.UserSigner(c.User("alice@example.com"), nil, "ubuntu").PublicKey()
	host := c.HostSigner("web-1").PublicKey()
	for _, tt := range []struct {
		name string
		of   *clustertest.Cluster
		ok   bool
	}{{"the cluster", c, true}, {"another cluster", other, false}} {
		_, err := identity.VerifySSHUser(
			user, clustertest.Name, []ssh.PublicKey{tt.of.UserAuthority()}, nil, time.Now())
		if (err == nil) != tt.ok {
			t.Errorf("a user in %s: got %v, want accepted %v", tt.name, err, tt.ok)
		}
		err = identity.VerifySSHHost(host, "web-1", []ssh.PublicKey{tt.of.HostAuthority()}, time.Now())
		if (err == nil) != tt.ok {
			t.Errorf("a host in %s: got %v, want accepted %v", tt.name, err, tt.ok)
		}
	}
}
