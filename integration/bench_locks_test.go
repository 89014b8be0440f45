//go:build integration

package integration

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"github.com/threshold-access/threshold/integration/harness"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/coalesce"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/node"
	"github.com/threshold-access/threshold/tsh/profile"
)

// lockedFleet is a number of nodes in this process, with one session each.
type lockedFleet struct {
	b       *testing.B
	proxy   string
	account string
	users   []*profile.Profile // whose sessions they are, in turn
	ended   chan endedSession
}

// endedSession is a session that has ended, and when.
type endedSession struct {
	node int
	at   time.Time
	err  error
}

// start runs node number n until ctx ends, and returns when it can be reached.
func (f *lockedFleet) start(ctx context.Context, g *sync.WaitGroup, n int, dir, token string) error {
	machine, err := node.New(node.Config{
		Dir:     filepath.Join(dir, fmt.Sprint(n)),
		Proxies: []string{f.proxy},
		Token:   token,
		Name:    fmt.Sprintf("fleet-%d", n),
		Version: "bench",
		Drain:   time.Second,
	})
	if err != nil {
		return err
	}
	runCtx, failed := context.WithCancelCause(ctx)
	g.Go(func() { failed(machine.Run(ctx)) })
	if err := machine.Ready(runCtx); err != nil {
		return fmt.Errorf("node %d: %w", n, context.Cause(runCtx))
	}
	return nil
}

// open opens a session on node number n. When it ends, that is sent to f.ended.
func (f *lockedFleet) open(ctx context.Context, g *sync.WaitGroup, n int) error {
	p := f.users[n%len(f.users)]
	own := func() (*tls.Certificate, error) { return &p.X509, nil }
	dialer := tls.Dialer{
		Config: identity.PinnedTLS(p.Pin, p.Cluster, identity.ALPNDial, own, time.Now, identity.Proxy),
	}
	conn, err := dialer.DialContext(ctx, "tcp", f.proxy)
	if err != nil {
		return err
	}
	stream := dial.Client(coalesce.Conn(conn), dial.Request{Node: fmt.Sprintf("fleet-%d", n)})
	key, err := ssh.NewSignerFromSigner(p.SSHKey)
	if err != nil {
		return err
	}
	signer, err := ssh.NewCertSigner(p.SSHCert, key)
	if err != nil {
		return err
	}
	sshConn, channels, requests, err := ssh.NewClientConn(stream, "fleet", &ssh.ClientConfig{
		User:            f.account,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), // the node is in this process
	})
	if err != nil {
		return fmt.Errorf("node %d: %w", n, err)
	}
	client := ssh.NewClient(sshConn, channels, requests)
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	if err := session.Start("exec sleep 1000"); err != nil {
		return err
	}
	g.Go(func() {
		err := session.Wait()
		f.ended <- endedSession{n, time.Now(), err}
		client.Close()
	})
	return nil
}

// BenchmarkLockToCut locks an account that has a session on each of 1,000 nodes, while 1,000 other locks
// stand, and measures how long after the call of the administrator each session has ended at its client.
// Nodes and clients are in this process, auth and proxy in another, on the same cores.
func BenchmarkLockToCut(b *testing.B) {
	const nodes, standing = 1000, 1000
	addr := harness.FreeAddr(b, "127.0.0.1")
	account := harness.MakeAccount(b, "thbench").Username // its shell has no start-up files
	home := b.TempDir()
	seal := filepath.Join(home, "seal.key")
	provider := harness.StartProvider(b, "127.0.0.1", addr)
	bootstrap := harness.BootstrapFor(provider, seal, "shell, exec", account)
	s := harness.StartServerFrom(b, home, addr, bootstrap, "")
	admin, bob := harness.NewClient(b), harness.NewClient(b)
	alice := admin.FirstLogin(s, harness.Alice())
	login := func(c *harness.Client, u harness.User) *profile.Profile {
		c.LoginAt(addr, s, u)
		return loadProfile(b, c)
	}
	withFactor := bob.FirstLogin(s, harness.Bob())
	giveRole(b, admin, harness.Bob().Email, "operator")
	f := &lockedFleet{
		b: b, proxy: addr, account: account, ended: make(chan endedSession, nodes),
		users: []*profile.Profile{login(bob, withFactor), login(harness.NewClient(b), alice)},
	}
	calls := newFleet(b, addr, admin)
	for i := range standing {
		applyLock(b, calls.admin, map[string]any{
			"match":   map[string]string{"login_id": fmt.Sprintf("no-login-%d", i)},
			"message": "somebody else", "for": "24h",
		})
	}
	const uses = 100 // the most that one token may have
	var tokens []string
	for range nodes / uses {
		tokens = append(tokens, admin.Token("node", "--uses", fmt.Sprint(uses)))
	}
	dir, ctx, running := b.TempDir(), b.Context(), sync.WaitGroup{}
	ctx, stop := context.WithCancel(ctx)
	defer running.Wait()
	defer stop()
	var starting errgroup.Group
	starting.SetLimit(16)
	for n := range nodes {
		starting.Go(func() error { return f.start(ctx, &running, n, dir, tokens[n/uses]) })
	}
	if err := starting.Wait(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		var opening errgroup.Group
		opening.SetLimit(16)
		for n := range nodes {
			opening.Go(func() error { return f.open(ctx, &running, n) })
		}
		if err := opening.Wait(); err != nil {
			b.Fatal(err)
		}
		proxyPID := s.Process.Cmd.Process.Pid
		nodesBefore, proxyBefore := harness.CPU(b, os.Getpid()), harness.CPU(b, proxyPID)
		begun := time.Now()
		id := applyLock(b, calls.admin, map[string]any{
			"match": map[string]string{"account": f.account}, "message": "the benchmark", "force": true,
		})
		var took []time.Duration
		for range nodes {
			end := <-f.ended
			var exit *ssh.ExitError
			if !errors.As(end.err, &exit) || exit.ExitStatus() != lockedStatus {
				b.Fatalf("node %d: got %v, want exit status %d", end.node, end.err, lockedStatus)
			}
			took = append(took, end.at.Sub(begun))
		}
		slices.Sort(took)
		nodesCPU := harness.CPU(b, os.Getpid()) - nodesBefore
		proxyCPU := harness.CPU(b, proxyPID) - proxyBefore
		b.Logf("sessions cut, by time after the call:\n%s", histogram(took))
		what := fmt.Sprintf("a lock ends %d sessions on as many nodes, %d locks standing", nodes, standing)
		harness.Report(
			b,
			harness.Measurement{What: what + ", median", Unit: "ms", Ours: milliseconds(took[nodes/2])},
			harness.Measurement{
				What:  "the same, 99 of 100",
				Unit:  "ms",
				Ours:  milliseconds(took[nodes*99/100]),
				Bound: 1000,
			},
			harness.Measurement{What: "the same, the last", Unit: "ms", Ours: milliseconds(took[nodes-1])},
			harness.Measurement{
				What: "processor time for it of a node with its client",
				Unit: "ms",
				Ours: milliseconds(nodesCPU) / nodes,
			},
			harness.Measurement{
				What: "processor time for it of auth and proxy",
				Unit: "ms",
				Ours: milliseconds(proxyCPU),
			},
		)
		remove := authrpc.RemoveResourceRequest{Kind: "locks", Name: id}
		if _, err := authrpc.Call(ctx, calls.admin, authrpc.RemoveResource, remove); err != nil {
			b.Fatal(err)
		}
	}
}

// applyLock makes a lock of the spec and returns its id.
func applyLock(b *testing.B, admin *authrpc.Client, spec map[string]any) string {
	b.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		b.Fatal(err)
	}
	apply := authrpc.ApplyResourceRequest{Resource: authrpc.Resource{Kind: "lock", Version: "v1", Spec: text}}
	res, err := authrpc.Call(b.Context(), admin, authrpc.ApplyResource, apply)
	if err != nil {
		b.Fatal(err)
	}
	return res.Resource.Metadata.Name
}

// giveRole gives a user a role.
func giveRole(b *testing.B, admin *harness.Client, user, role string) {
	b.Helper()
	file := harness.WriteFile(b, admin.Home, "user.yaml", fmt.Sprintf(`kind: user
version: v1
metadata: {name: %s}
spec: {roles: [%s]}
`, user, role))
	admin.Tsh("apply", "-f", file).OK(b)
}

// histogram draws how many of the sorted times are in each tenth of a second.
func histogram(took []time.Duration) string {
	const step = 100 * time.Millisecond
	var out strings.Builder
	for from := time.Duration(0); len(took) > 0; from += step {
		n := 0
		for n < len(took) && took[n] < from+step {
			n++
		}
		fmt.Fprintf(&out, "%6s %5d %s\n", from, n, strings.Repeat("#", (n+9)/10))
		took = took[n:]
	}
	return out.String()
}
