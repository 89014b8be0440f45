//go:build integration

package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"github.com/threshold-access/threshold/integration/harness"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/tsh/profile"
)

// fleet is a number of machines that have joined a cluster and keep an idle tunnel each.
type fleet struct {
	b       *testing.B
	proxy   string          // to which the tunnels lead
	admin   *authrpc.Client // of an administrator
	cluster string
	pin     identity.Pin

	mu    sync.Mutex // guards links
	links []*tunnel.Uplink
}

// loadProfile returns the login of a client.
func loadProfile(b *testing.B, c *harness.Client) *profile.Profile {
	b.Helper()
	home, err := profile.Open(func(name string) string {
		if name == "TSH_HOME" {
			return filepath.Join(c.Home, ".tsh")
		}
		return ""
	})
	if err != nil {
		b.Fatal(err)
	}
	p, err := home.Load(harness.ClusterName)
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// newFleet uses the login of c, which must be an administrator's.
func newFleet(b *testing.B, proxy string, c *harness.Client) *fleet {
	b.Helper()
	p := loadProfile(b, c)
	own := func() (*tls.Certificate, error) { return &p.X509, nil }
	conf := identity.PinnedTLS(p.Pin, p.Cluster, identity.ALPNAuth, own, time.Now, identity.Auth)
	admin := authrpc.NewClient(proxy, conf)
	b.Cleanup(admin.Close)
	return &fleet{b: b, proxy: proxy, admin: admin, cluster: p.Cluster, pin: p.Pin}
}

// join makes machine number n a member and opens its tunnel.
func (c *fleet) join(ctx context.Context, n int) error {
	spec, err := json.Marshal(map[string]string{"kind": "node", "ttl": "30m"})
	if err != nil {
		return err
	}
	token := authrpc.Resource{Kind: "token", Version: "v1", Spec: spec}
	create := authrpc.ApplyResourceRequest{Resource: token}
	created, err := authrpc.Call(ctx, c.admin, authrpc.ApplyResource, create)
	if err != nil {
		return err
	}
	service, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	req, err := joinRequest(created.Secret, fmt.Sprintf("fleet-%d", n), service)
	if err != nil {
		return err
	}
	// Before it has joined, the machine has no certificate.
	conf := identity.PinnedTLS(c.pin, c.cluster, identity.ALPNAuth, nil, time.Now, identity.Auth)
	anonymous := authrpc.NewClient(c.proxy, conf)
	defer anonymous.Close()
	res, err := authrpc.Call(ctx, anonymous, authrpc.Join, req)
	if err != nil {
		return err
	}
	cert := &tls.Certificate{Certificate: res.X509, PrivateKey: service}
	own := func() (*tls.Certificate, error) { return cert, nil }
	dialer := tls.Dialer{
		Config: identity.PinnedTLS(c.pin, c.cluster, identity.ALPNTunnel, own, time.Now, identity.Proxy),
	}
	conn, err := dialer.DialContext(ctx, "tcp", c.proxy)
	if err != nil {
		return err
	}
	up, err := tunnel.Connect(ctx, conn, tunnel.Node{
		ID:       res.Identity.ID,
		Key:      service,
		Version:  "bench",
		Instance: identity.NewInstanceID(),
		Now:      time.Now,
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.links = append(c.links, up)
	return nil
}

// joinRequest is the request of a machine with new keys.
func joinRequest(token, name string, service *ecdsa.PrivateKey) (req authrpc.JoinRequest, err error) {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return req, err
	}
	host, err := ssh.NewPublicKey(public)
	if err != nil {
		return req, err
	}
	req = authrpc.JoinRequest{
		Token:  token,
		Kind:   identity.Node,
		Name:   name,
		SSHKey: host.Marshal(),
		Time:   time.Now(),
	}
	if req.X509Key, err = x509.MarshalPKIXPublicKey(service.Public()); err != nil {
		return req, err
	}
	sum := authrpc.JoinProof(req.Token, req.SSHKey, req.X509Key)
	req.Proof, err = service.Sign(rand.Reader, sum[:], nil)
	return req, err
}

func (c *fleet) close() {
	for _, l := range c.links {
		l.Close()
	}
}

// BenchmarkIdleTunnels attaches many machines to one proxy, and measures the memory of the proxy for each
// of them. The proxy is a process of its own, so the memory of auth, which knows every machine, is not
// counted.
func BenchmarkIdleTunnels(b *testing.B) {
	const machines = 10_000
	addr := harness.FreeAddr(b, "127.0.0.1")
	first := harness.FreeAddr(b, "127.0.0.1")
	s := harness.StartServer(b, first, harness.StartProvider(b, "127.0.0.1", first), "")
	c := harness.NewClient(b)
	c.FirstLogin(s, harness.Alice())
	token := c.Token("proxy", "--public-name", "127.0.0.1")
	second := harness.StartProxy(b, addr, s.AuthAddr(b), token, "proxy-2")
	for b.Loop() {
		fleet := newFleet(b, first, c)
		fleet.proxy = addr
		pid := second.Cmd.Process.Pid
		empty := harness.MemoryMB(b, pid, "VmRSS")
		g, ctx := errgroup.WithContext(b.Context())
		g.SetLimit(16)
		for n := range machines {
			g.Go(func() error { return fleet.join(ctx, n) })
		}
		if err := g.Wait(); err != nil {
			b.Fatal(err)
		}
		before := harness.CPU(b, pid)
		const span = 20 * time.Second // in which two heads of the rules are pushed
		<-time.After(span)
		busy := (harness.CPU(b, pid) - before).Seconds() / span.Seconds()
		full := harness.MemoryMB(b, pid, "VmRSS")
		harness.Report(
			b,
			harness.Measurement{
				What:  fmt.Sprintf("%d idle tunnels at one proxy, each", machines),
				Unit:  "kB",
				Ours:  (full - empty) * 1000 / machines,
				Bound: 60,
			},
			harness.Measurement{
				What: "processor time of that proxy for them, of one core",
				Unit: "s/s",
				Ours: busy,
			},
		)
		t := harness.MedianTimes(5, func() { c.Tsh("ls", "-q", "name=fleet-77").OK(b) }, func() {
			if out := c.Tsh("ls", "-q").OK(b); strings.Count(out, "\n") < machines {
				b.Fatalf("got %d nodes listed, want %d", strings.Count(out, "\n"), machines)
			}
		})
		harness.Report(
			b,
			harness.Measurement{
				What:  fmt.Sprintf("`tsh ls` of %d nodes", machines),
				Unit:  "ms",
				Ours:  milliseconds(t[1]),
				Bound: 300,
			},
		)
		fleet.close()
	}
}
