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

// fleet is machines that joined a real cluster and do nothing but keep their tunnels.
type fleet struct {
	b       *testing.B
	proxy   string
	admin   *authrpc.Client
	cluster string
	pin     identity.Pin

	mu    sync.Mutex // guards links
	links []*tunnel.Uplink
}

func newFleet(b *testing.B, proxy string, c *harness.Client) *fleet {
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
	p, err := home.Load(proxy)
	if err != nil {
		b.Fatal(err)
	}
	own := func() (*tls.Certificate, error) { return &p.X509, nil }
	admin := authrpc.NewClient(
		proxy,
		identity.PinnedTLS(p.Pin, p.Cluster, identity.ALPNAuth, own, time.Now, identity.Auth),
	)
	b.Cleanup(admin.Close)
	return &fleet{b: b, proxy: proxy, admin: admin, cluster: p.Cluster, pin: p.Pin}
}

// join makes one machine a member and attaches it.
func (c *fleet) join(ctx context.Context, n int) error {
	spec, err := json.Marshal(map[string]string{"kind": "node", "ttl": "30m"})
	if err != nil {
		return err
	}
	made, err := authrpc.Call(
		ctx,
		c.admin,
		authrpc.ApplyResource,
		authrpc.ApplyResourceRequest{Resource: authrpc.Resource{Kind: "token", Version: "v1", Spec: spec}},
	)
	if err != nil {
		return err
	}
	service, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	req, err := joinRequest(made.Secret, fmt.Sprintf("fleet-%d", n), service)
	if err != nil {
		return err
	}
	stranger := authrpc.NewClient(
		c.proxy,
		identity.PinnedTLS(c.pin, c.cluster, identity.ALPNAuth, nil, time.Now, identity.Auth),
	)
	defer stranger.Close()
	res, err := authrpc.Call(ctx, stranger, authrpc.Join, req)
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
	up, err := tunnel.Connect(ctx, conn, service, res.Identity.ID, "bench", time.Now)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.links = append(c.links, up)
	return nil
}

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

// BenchmarkIdleTunnels attaches many machines to one proxy process, and asks what each takes of its memory.
// The proxy is a process of its own; that of auth, which knows every machine, is not counted.
func BenchmarkIdleTunnels(b *testing.B) {
	const machines = 10_000
	addr := harness.FreeAddr(b, "127.0.0.1")
	first := harness.FreeAddr(b, "127.0.0.1")
	s := harness.StartServer(b, first, harness.StartProvider(b, "127.0.0.1", first), "")
	c := harness.NewClient(b)
	c.FirstLogin(s, harness.Alice())
	second := harness.StartProxy(b, addr, s.AuthAddr(b), c.Token("proxy"), "proxy-2")
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
		began := harness.CPU(b, pid)
		const watch = 20 * time.Second // two heads of the rules
		<-time.After(watch)
		busy := (harness.CPU(b, pid) - began).Seconds() / watch.Seconds()
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
