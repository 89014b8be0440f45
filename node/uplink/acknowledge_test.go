package uplink

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/tunnel"
)

// acknowledgements is what a node has signed: a number that grows with each change of its rules.
type acknowledgements struct {
	mu      sync.Mutex
	number  int
	err     error
	changed chan struct{}
}

func (a *acknowledgements) newest() ([]byte, <-chan struct{}, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return []byte(strconv.Itoa(a.number)), a.changed, a.err
}

// change makes something newer, or an error.
func (a *acknowledgements) change(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.number++
	a.err = err
	close(a.changed)
	a.changed = make(chan struct{})
}

// connect makes a tunnel of the node to a proxy of its cluster.
func connect(t *testing.T, c *clustertest.Cluster, tunnels *Tunnels) (*tunnel.Attached, *tunnel.Uplink) {
	t.Helper()
	cert, err := tunnels.cfg.Cert()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	id := identity.Identity{Kind: identity.Node, Name: "web-1", ID: tunnels.cfg.ID}
	near, far := net.Pipe()
	accepted := make(chan *tunnel.Attached, 1)
	go func() {
		proxy := c.Machine(identity.Proxy, "proxy-1", nil)
		attached, err := tunnel.Accept(t.Context(), near, identity.Peer{Identity: id, Cert: leaf},
			tunnel.Proxy{ID: proxy.ID, Name: proxy.Name, Now: time.Now})
		if err != nil {
			t.Error(err)
		}
		accepted <- attached
	}()
	up, err := tunnel.Connect(t.Context(), far, tunnel.Node{
		ID:       tunnels.cfg.ID,
		Key:      tunnels.cfg.Key,
		Instance: tunnels.cfg.Instance,
		Services: []tunnel.Service{tunnel.SSH},
		Now:      time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	attached := <-accepted
	t.Cleanup(func() { up.Close(); attached.Close() })
	return attached, up
}

// The node says by which rules it decides when it has attached and when they change, at most five times a
// second, and never the same twice.
func TestChangesOfTheRulesAreAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.NewInMemory(t)
		tunnels := newTunnels(t, c, c.Addr(), time.Now)
		source := &acknowledgements{changed: make(chan struct{})}
		tunnels.cfg.Acknowledgement = source.newest
		attached, up := connect(t, c, tunnels)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			tunnels.acknowledge(ctx, up)
			close(ended)
		}()
		taken := func() string {
			synctest.Wait()
			select {
			case a := <-attached.Acknowledged():
				return string(a)
			default:
				return ""
			}
		}
		if got := taken(); got != "0" {
			t.Errorf("got %q after attaching, want the first", got)
		}
		<-time.After(time.Minute)
		if got := taken(); got != "" {
			t.Errorf("got %q while nothing changed", got)
		}
		source.change(nil)
		if got := taken(); got != "1" {
			t.Errorf("got %q, want a change at once", got)
		}
		count, last := 0, ""
		for range 100 {
			<-time.After(10 * time.Millisecond)
			source.change(nil)
			if got := taken(); got != "" {
				count, last = count+1, got
			}
		}
		<-time.After(2 * acknowledgePause)
		if got := taken(); got != "" {
			count, last = count+1, got
		}
		if last != "101" || count < 4 || count > 6 {
			t.Errorf("got %d of 100 changes in a second, at last %q; want about 5, at last 101", count, last)
		}
		source.change(errors.New("no key"))
		if got := taken(); got != "" {
			t.Errorf("got %q, want nothing that is not signed", got)
		}
		<-time.After(2 * acknowledgePause)
		source.change(nil)
		if got := taken(); got != "103" {
			t.Errorf("got %q, want the next that is signed", got)
		}
		cancel()
		<-ended
	})
}
