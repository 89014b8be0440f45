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

// clientAddress is the address that forwardingDialer forwards.
const clientAddress = "192.0.2.7"

// forwardingDialer connects to auth as a proxy does for a client: it puts a forwarded address in front.
type forwardingDialer struct {
	key     crypto.Signer
	proxyID identity.MachineID
}

func (d forwardingDialer) DialTLS(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(&forwardingConn{Conn: raw, dialer: d}, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// forwardingConn sends the signed forwarded address in front of the first write, which is the ClientHello.
type forwardingConn struct {
	net.Conn
	dialer forwardingDialer
	sent   bool
}

func (c *forwardingConn) Write(b []byte) (int, error) {
	if !c.sent {
		c.sent = true
		from := netip.MustParseAddrPort(clientAddress + ":40022")
		header, err := authrpc.SignForwardedFrom(c.dialer.key, c.dialer.proxyID, from, b)
		if err != nil {
			return 0, err
		}
		if _, err := c.Conn.Write(header); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}

// A forwarded address counts if a proxy on record has signed it. Signed by a node, or in the name of another
// proxy, it refuses the connection.
func TestOnlyARegisteredProxyForwardsAClientAddress(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	edge := s.join(identity.Proxy, "edge", nil, "edge.example.org")
	other := s.join(identity.Proxy, "other", nil, "other.example.org")
	node := s.join(identity.Node, "web", nil)
	ask := func(d forwardingDialer) (from string, err error) {
		c := authrpc.NewClientWithDialer(d, s.addr, s.clientTLS(nil))
		defer c.Close()
		req := authrpc.BeginHeadlessRequest{Challenge: strings.Repeat("a", 43)}
		res, err := authrpc.Call(t.Context(), c, authrpc.BeginHeadless, req)
		return res.From, err
	}
	good := forwardingDialer{edge.key, edge.res.Identity.ID}
	if from, err := ask(good); err != nil || from != clientAddress {
		t.Errorf("a proxy on record: got %q, %v, want %s", from, err, clientAddress)
	}
	for name, d := range map[string]forwardingDialer{
		"a node":                             {node.key, node.res.Identity.ID},
		"a proxy in another's name":          {other.key, edge.res.Identity.ID},
		"a key of no machine":                {newKey(t), edge.res.Identity.ID},
		"a proxy that is not of the cluster": {edge.key, "00000000000000000000000000000000"},
	} {
		if from, err := ask(d); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s: got %q, %v, want the connection refused", name, from, err)
		}
	}
	s.must(s.remove(s.user("alice", "admin"), "proxies", "edge"))
	if from, err := ask(good); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a proxy that was removed: got %q, %v, want the connection refused", from, err)
	}
}
