package proxy

import (
	"net"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

func TestHealthFollowsTheProxy(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p, err := New(Config{
		Listener: ln,
		Public:   []string{"p.example.com"},
		Dir:      t.TempDir(),
		AuthAddr: "127.0.0.1:1",
		Log:      proxytest.Log(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Health(t.Context()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v before it runs, want unavailable", err)
	}
	d := startProxy(t, time.Second)
	if err := d.proxy.Health(t.Context()); err != nil {
		t.Errorf("got %v of one that serves, want none", err)
	}
	if err := d.stop(); err != nil {
		t.Fatal(err)
	}
	if err := d.proxy.Health(t.Context()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v of one that has stopped, want unavailable", err)
	}
}
