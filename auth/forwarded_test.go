package auth

import (
	"context"
	"crypto"
	"crypto/tls"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// forwardingDialer is a way by a proxy that says from where a client comes.
type forwardingDialer struct {
	key   crypto.Signer
	proxy identity.MachineID
}

const clientAddress = "192.0.2.7"

func (p forwardingDialer) DialTLS(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(&forwardingConn{Conn: raw, proxy: p}, cfg)
	return conn, conn.HandshakeContext(ctx)
}

// forwardingConn sends the proxy's word before the first bytes, which are the ClientHello.
type forwardingConn struct {
	net.Conn
	proxy forwardingDialer
	sent  bool
}

func (c *forwardingConn) Write(b []byte) (int, error) {
	if !c.sent {
		c.sent = true
		word, err := authrpc.SignForwardedFrom(
			c.proxy.key,
			c.proxy.proxy,
			netip.MustParseAddrPort(clientAddress+":40022"),
			b,
		)
		if err != nil {
			return 0, err
		}
		if _, err := c.Conn.Write(word); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}

// The word of a proxy counts as long as it is on record; that of a node, or one under another's name, counts
// for nothing.
func TestOnlyARegisteredProxyForwardsAClientAddress(t *testing.T) {
	w := newTestServer(t)
	edge, other := w.join(
		identity.Proxy,
		"edge",
		nil,
		"edge.example.org",
	), w.join(
		identity.Proxy,
		"other",
		nil,
		"other.example.org",
	)
	node := w.join(identity.Node, "web", nil)
	ask := func(p forwardingDialer) (string, error) {
		c := authrpc.NewClientWithDialer(
			p,
			w.addr,
			identity.PinnedTLS(w.auth.Pin(), w.auth.Cluster(), identity.ALPNAuth, nil, w.now, identity.Auth),
		)
		defer c.Close()
		res, err := authrpc.Call(
			t.Context(),
			c,
			authrpc.BeginHeadless,
			authrpc.BeginHeadlessRequest{Challenge: strings.Repeat("a", 43)},
		)
		return res.From, err
	}
	good := forwardingDialer{edge.key, edge.res.Identity.ID}
	if from, err := ask(good); err != nil || from != clientAddress {
		t.Errorf("got %q, %v by a proxy on record, want %s", from, err, clientAddress)
	}
	for name, p := range map[string]forwardingDialer{
		"a node":                             {node.key, node.res.Identity.ID},
		"a proxy under another's name":       {other.key, edge.res.Identity.ID},
		"a key that is nobody's":             {newKey(t), edge.res.Identity.ID},
		"a proxy that is not of the cluster": {edge.key, "00000000000000000000000000000000"},
	} {
		if from, err := ask(p); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s: got %q, %v, want the connection refused", name, from, err)
		}
	}
	_, err := authrpc.Call(
		t.Context(),
		w.user("alice", "admin"),
		authrpc.RemoveResource,
		authrpc.RemoveResourceRequest{Kind: "machines", Name: "edge"},
	)
	w.must(err)
	if from, err := ask(good); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a proxy that was removed: got %q, %v, want the connection refused", from, err)
	}
}
