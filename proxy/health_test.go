package proxy

import (
	"net"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

// Health returns an error before Run has joined the cluster and after the stop, and none while the proxy
// serves.
func TestHealthFollowsTheProxy(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	notStarted, err := New(Config{
		Listener: listener,
		Public:   []string{"p.example.com"},
		Dir:      t.TempDir(),
		AuthAddr: "127.0.0.1:1",
		Log:      proxytest.Log(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := notStarted.Health(t.Context()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v before Run, want unavailable", err)
	}
	running := startProxy(t, time.Second)
	if err := running.proxy.Health(t.Context()); err != nil {
		t.Errorf("got %v while it serves, want none", err)
	}
	if err := running.stop(); err != nil {
		t.Fatal(err)
	}
	if err := running.proxy.Health(t.Context()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v after the stop, want unavailable", err)
	}
}
