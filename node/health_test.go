package node_test

import (
	"testing"

	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/node"
)

// A node is unhealthy before it has a tunnel, and healthy once it has one.
func TestHealthNeedsATunnel(t *testing.T) {
	t.Parallel()
	n, err := node.New(node.Config{Dir: t.TempDir(), Proxies: []string{"127.0.0.1:1"}, Name: "web-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Health(t.Context()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v of a node that has not run, want unavailable", err)
	}
	c := clustertest.New(t)
	allow(t, c)
	p := startProxy(t, c, "proxy-1", "")
	m := start(t, c, p)
	if err := m.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.Health(t.Context()); err != nil {
		t.Errorf("got %v of one with a tunnel, want none", err)
	}
}
