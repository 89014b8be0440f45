package tunnels_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
	signed "github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/proxy/proxytest"
	"github.com/threshold-access/threshold/proxy/rules"
	"github.com/threshold-access/threshold/proxy/tunnels"
)

// countingConn counts what is written to it.
type countingConn struct {
	net.Conn
	written *atomic.Int64
}

func (c countingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

// benchRoles are many roles as a cluster has them, and one whose name says which change it is.
func benchRoles(change int) []access.Role {
	roles := []access.Role{{Name: fmt.Sprintf("change-%d", change)}}
	for i := range 300 {
		team := fmt.Sprintf("team-%d", i)
		roles = append(roles, access.Role{Name: "role-" + team, Allow: []access.Grant{{
			Nodes:   map[string]access.Strings{"env": {"staging", "prod"}, "team": {team}},
			Logins:  access.Strings{"{{traits.unix}}", "ubuntu"},
			Actions: access.Strings{"shell", "exec", "sftp", "forward-local"},
		}}})
	}
	return roles
}

// benchNode verifies what is pushed to it, as a node does, and reports each change that is in force.
func benchNode(up *tunnel.Uplink, trust *signed.Trust, inForce chan<- string) {
	receiver, last := signed.NewReceiver(trust, time.Now()), ""
	for {
		select {
		case pushed := <-up.Rules():
			pieces := pushed.Pieces
			if pushed.Head != nil {
				pieces = append(pieces, pushed.Head)
			}
			received, err := receiver.Offer(time.Now(), pieces...)
			if err != nil || received.InForce == nil {
				continue
			}
			for name := range received.InForce.Policy.Roles {
				if name[0] == 'c' && name != last {
					last = name
					inForce <- name
				}
			}
		case <-up.Done():
			return
		}
	}
}

// One role of 301 changes: how long until 1,000 nodes in this process have verified it, and how many bytes
// the proxy sends.
func BenchmarkRulesPushToThousandNodes(b *testing.B) {
	const nodes = 1000
	a := proxytest.New(b)
	client := a.Client()
	defer client.Close()
	a.SetRoles(benchRoles(0)...)
	first := a.SignRules()
	carrier, err := rules.New(rules.Config{
		Pin:   a.Pin(),
		First: first,
		Path:  filepath.Join(b.TempDir(), "rules.json"),
		Auth:  client,
		Log:   proxytest.Log(),
	})
	if err != nil {
		b.Fatal(err)
	}
	live := tunnels.New(tunnels.Config{
		Proxy: proxytest.Name, ProxyID: a.ProxyID(), Auth: client, Rules: carrier, Log: proxytest.Log(),
		Acknowledge: proxytest.IgnoreAcknowledgements,
	})
	ctx, stop := context.WithCancel(b.Context())
	var goroutines sync.WaitGroup
	defer goroutines.Wait()
	defer stop()
	goroutines.Go(func() { _ = carrier.Run(ctx) })
	trust, err := signed.Open(a.Pin(), first)
	if err != nil {
		b.Fatal(err)
	}
	var written atomic.Int64
	inForce := make(chan string, nodes)
	id := a.Machine(identity.Node, "node", nil)
	cert := a.MachineCertificate(id, nil)
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		b.Fatal(err)
	}
	for i := range nodes {
		node := id
		node.ID = identity.MachineID(fmt.Sprintf("%032x", i))
		node.Expires = time.Now().Add(time.Hour)
		near, far := net.Pipe()
		goroutines.Go(func() {
			serve(ctx, live, countingConn{near, &written}, identity.Peer{Identity: node, Cert: leaf})
		})
		up, err := tunnel.Connect(ctx, far, proxytest.Greeting(node.ID, cert, "v1"))
		if err != nil {
			b.Fatal(err)
		}
		goroutines.Go(func() { benchNode(up, trust, inForce); up.Close() })
	}
	await := func(change int) {
		for range nodes {
			for want := fmt.Sprintf("change-%d", change); <-inForce != want; {
			}
		}
	}
	change := 1
	push := func() {
		a.SetRoles(benchRoles(change)...)
		a.Publish(a.SignRules())
		await(change)
		change++
	}
	push() // every node has what its membership came with: the first push is whole
	written.Store(0)
	for b.Loop() {
		push()
	}
	b.ReportMetric(float64(written.Load())/float64(b.N)/nodes, "B/node")
}
