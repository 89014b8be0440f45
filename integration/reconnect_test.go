//go:build integration

package integration

import (
	"context"
	"crypto"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/node/uplink"
	"github.com/threshold-access/threshold/proxy/jump"
	"github.com/threshold-access/threshold/proxy/mux"
	"github.com/threshold-access/threshold/proxy/proxytest"
	"github.com/threshold-access/threshold/proxy/tunnels"
)

const (
	agents = 1000
	// Agents reconnect within five seconds after an outage, each at a random moment, which makes 20 in each
	// bucket on average.
	bucket    = 100 * time.Millisecond
	mean      = 20
	maxBucket = 8 * mean // if the machine did not pause; the tests of node/uplink have a tighter bound
)

// The proxy of a thousand agents stops and starts again. The agents do not reconnect all at once, all are
// back soon, and users are served meanwhile. The agents are uplinks in this process, and so is the proxy,
// because a thousand processes do not fit on the machine.
func TestAThousandAgentsDoNotReconnectAtOnce(t *testing.T) {
	c := proxytest.New(t)
	c.SetRoles(access.Role{Name: "ops", Allow: []access.Grant{{
		Nodes:   map[string]access.Strings{"*": {"*"}},
		Logins:  access.Strings{"ubuntu"},
		Actions: access.Strings{"shell"},
	}}})
	client := c.Client()
	t.Cleanup(func() { client.Close() })
	trust, err := rules.Open(c.Pin(), c.SignRules())
	if err != nil {
		t.Fatal(err)
	}
	addr := harness.FreeAddr(t, "127.0.0.1")
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(stop)

	p := startProxy(t, c, trust, addr)
	var attached atomic.Int64
	for i := range agents {
		agent := newUplink(c, addr, fmt.Sprintf("agent-%d", i), func() { attached.Add(1) })
		running.Go(func() { _ = agent.Run(ctx) })
	}
	first := waitForCount(t, &attached, agents)
	t.Logf("all connected at first after %s", first.Round(bucket))

	p.stop()
	paused := measurePauses(t)
	p = startProxy(t, c, trust, addr)
	defer p.stop()
	back := time.Now()
	startEchoNode(t, c, addr)
	done := make(chan time.Duration, 1)
	go func() { done <- waitForCount(t, &attached, 2*agents) }()
	var times []time.Duration
	var all time.Duration
	for tick := time.NewTicker(200 * time.Millisecond); all == 0; {
		times = append(times, dialOnce(t, c, addr))
		select {
		case all = <-done:
			tick.Stop()
		case <-tick.C:
		}
	}
	slices.Sort(times)
	median, worst, gap := times[len(times)/2], times[len(times)-1], paused()
	curve, most := p.arrivals(back)
	t.Logf("all back after %s, at most %d within %s: %v", all.Round(bucket), most, bucket, curve)
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	t.Logf("%d users answered meanwhile, after %s in the median and %s at worst, with pauses of up to %s",
		len(times), ms(median), ms(worst), ms(gap))
	// Agents that are due during a pause of the machine come at once after it.
	if want := maxBucket + int(2*mean*gap/bucket); most > want {
		t.Errorf("got %d agents within %s, want at most %d", most, bucket, want)
	}
	if all > 30*time.Second { // five seconds, and ten for agents that came when the proxy was too busy
		t.Errorf("got all back after %s, want within 30s", all)
	}
	// One user in ten may meet a pause of the machine.
	if late := times[len(times)*9/10]; late > time.Second+gap {
		t.Errorf("got users answered in %v, want within a second", times)
	}
}

// measurePauses measures pauses of this machine: by how much a ticker of this process is late. The function
// that it returns ends this and returns the longest pause.
func measurePauses(t *testing.T) func() time.Duration {
	t.Helper()
	const every = 5 * time.Millisecond
	stop, worst := make(chan struct{}), make(chan time.Duration)
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		var most time.Duration
		for last := time.Now(); ; {
			select {
			case <-tick.C:
				now := time.Now()
				most, last = max(most, now.Sub(last)-every), now
			case <-stop:
				worst <- most
				return
			}
		}
	}()
	end := sync.OnceValue(func() time.Duration { close(stop); return <-worst })
	t.Cleanup(func() { end() })
	return end
}

// waitForCount waits until n is want, and returns how long it took.
func waitForCount(t *testing.T, n *atomic.Int64, want int64) time.Duration {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(2 * harness.Timeout); n.Load() < want; {
		select {
		case <-tick.C:
		case <-deadline:
			t.Errorf("got %d tunnels, want %d", n.Load(), want)
			return time.Since(start)
		}
	}
	return time.Since(start)
}

// newUplink is an agent's uplink of one tunnel.
func newUplink(c *proxytest.Auth, addr, name string, attached func()) *uplink.Tunnels {
	id := c.Machine(identity.Node, name, nil)
	cert := c.MachineCertificate(id, nil)
	return uplink.New(uplink.Config{
		Proxies:         []string{addr},
		Tunnels:         1,
		Pin:             c.Pin(),
		Cluster:         clustertest.Name,
		ID:              id.ID,
		Key:             cert.PrivateKey.(crypto.Signer),
		Cert:            func() (*tls.Certificate, error) { return cert, nil },
		Version:         "v1",
		Instance:        identity.NewInstanceID(),
		Now:             time.Now,
		Log:             slog.New(slog.DiscardHandler),
		Attached:        attached,
		Rules:           func(tunnel.PushedRules) []string { return nil },
		Acknowledgement: func() ([]byte, <-chan struct{}, error) { return []byte("{}"), nil, nil },
		Handle: func(_ context.Context, conn net.Conn, _ tunnel.Header, _ identity.Identity) {
			conn.Close()
		},
	})
}

// dialPinned connects to the proxy with a certificate for a protocol.
func dialPinned(c *proxytest.Auth, addr, protocol string, cert *tls.Certificate) (*tls.Conn, error) {
	own := func() (*tls.Certificate, error) { return cert, nil }
	cfg := identity.PinnedTLS(c.Pin(), clustertest.Name, protocol, own, time.Now, identity.Proxy)
	return tls.Dial("tcp", addr, cfg)
}

// startEchoNode connects the node of the users, which echoes, and waits until the proxy leads users to it: a
// tunnel is connected a moment before that.
func startEchoNode(t *testing.T, c *proxytest.Auth, addr string) {
	t.Helper()
	id := c.Machine(identity.Node, "wanted", nil)
	cert := c.MachineCertificate(id, nil)
	conn, err := dialPinned(c, addr, identity.ALPNTunnel, cert)
	if err != nil {
		t.Fatal(err)
	}
	up, err := tunnel.Connect(t.Context(), conn, proxytest.Greeting(id.ID, cert, "v1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { up.Close() })
	go func() {
		for {
			s, _, err := up.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(s, s); s.Close() }()
		}
	}()
	harness.Eventually(t, "the proxy has attached the node", func() bool { return echoOnce(c, addr) == nil })
}

// dialOnce connects a user to the node, and returns how long it took until the node answered.
func dialOnce(t *testing.T, c *proxytest.Auth, addr string) time.Duration {
	t.Helper()
	start := time.Now()
	if err := echoOnce(c, addr); err != nil {
		t.Errorf("a user: %v", err)
	}
	return time.Since(start)
}

// echoOnce connects a user to the node and waits for its answer.
func echoOnce(c *proxytest.Auth, addr string) error {
	cert := c.UserCertificate(c.User("alice@example.com", "ops"), nil)
	conn, err := dialPinned(c, addr, identity.ALPNDial, cert)
	if err != nil {
		return err
	}
	defer conn.Close()
	node := dial.Client(conn, dial.Request{Node: "wanted"})
	if _, err := io.WriteString(node, "hello"); err != nil {
		return err
	}
	_, err = io.ReadFull(node, make([]byte, 5))
	return err
}

// testProxy is a proxy that records when connections arrived.
type testProxy struct {
	net.Listener
	stop func()

	mu       sync.Mutex // guards accepted
	accepted []time.Time
}

// fixedRules are rules that do not change.
type fixedRules struct{ *rules.Trust }

func (r fixedRules) Current() *rules.Trust                        { return r.Trust }
func (r fixedRules) Changed() <-chan struct{}                     { return nil }
func (r fixedRules) Subscribe() (<-chan tunnel.RulesPush, func()) { return nil, func() {} }

func startProxy(t *testing.T, c *proxytest.Auth, trust *rules.Trust, addr string) *testProxy {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &testProxy{Listener: ln}
	client := c.Client()
	nodes := tunnels.New(tunnels.Config{
		Proxy:       proxytest.Name,
		ProxyID:     c.ProxyID(),
		Auth:        client,
		Rules:       fixedRules{trust},
		Acknowledge: proxytest.IgnoreAcknowledgements,
		Log:         proxytest.Log(),
	})
	jumps := jump.New(jump.Config{
		Cluster:    clustertest.Name,
		Proxy:      proxytest.Name,
		ProxyID:    c.ProxyID(),
		Rules:      fixedRules{trust},
		Nodes:      nodes,
		Auth:       client,
		HostSigner: c.HostKey,
		Log:        proxytest.Log(),
	})
	m := mux.New(mux.Config{
		Listener:    p,
		Cluster:     clustertest.Name,
		AuthAddr:    c.Addr(),
		Rules:       fixedRules{trust},
		Service:     c.TLSCertificate,
		ServeSSH:    jumps.ServeSSH,
		ServeDial:   jumps.ServeDial,
		ServeTunnel: nodes.Attach,
		ServeWeb:    func(conn net.Conn) { conn.Close() },
		Log:         proxytest.Log(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		client.Close()
	})
	return p
}

func (p *testProxy) Accept() (net.Conn, error) {
	conn, err := p.Listener.Accept()
	if err == nil {
		p.mu.Lock()
		p.accepted = append(p.accepted, time.Now())
		p.mu.Unlock()
	}
	return conn, err
}

// arrivals counts the connections in each bucket since a time, and returns the highest count too.
func (p *testProxy) arrivals(since time.Time) (curve []int, most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range p.accepted {
		i := int(max(0, at.Sub(since)) / bucket)
		for len(curve) <= i {
			curve = append(curve, 0)
		}
		curve[i]++
		most = max(most, curve[i])
	}
	return curve, most
}
