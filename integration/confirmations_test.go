//go:build integration

package integration

import (
	"crypto/tls"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/profile"
)

// Proxies and nodes confirm the locks without being asked, also to an auth service that has restarted and
// knows nothing. One that does not answer is named, and confirms when it is back.
func TestMachinesConfirmLocks(t *testing.T) {
	first, second := harness.FreeAddr(t, "127.0.0.1"), harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServer(t, first, harness.StartProvider(t, "127.0.0.1", first, second), "")
	admin := harness.NewClient(t)
	admin.FirstLogin(s, harness.Alice())
	token := admin.Token("proxy", "--public-name", "127.0.0.1")
	harness.StartProxy(t, second, s.AuthAddr(t), token, "proxy-2")
	far := harness.StartNode(t, second, admin.Token("node"), "far-node")
	harness.StartNode(t, second, admin.Token("node"), "old-node")
	client := authClient(t, admin)
	until := func(what string, ok func(authrpc.LockConfirmationsResponse) bool) {
		t.Helper()
		var got authrpc.LockConfirmationsResponse
		var err error
		for end := time.Now().Add(harness.Timeout); time.Now().Before(end); {
			got, err = authrpc.Call(t.Context(), client, authrpc.LockConfirmations,
				authrpc.LockConfirmationsRequest{Wait: time.Second})
			if err == nil && ok(got) {
				return
			}
		}
		t.Fatalf("%s: got %+v, %v", what, got, err)
	}
	all := func(machines int) func(authrpc.LockConfirmationsResponse) bool {
		return func(got authrpc.LockConfirmationsResponse) bool {
			return got.Confirmed == machines && got.Attached == machines && got.OfflineCount == 0
		}
	}
	until("both proxies and both nodes", all(4))

	s.Restart(t)
	until("after a restart of auth", all(4))

	signal := func(sig syscall.Signal) {
		if err := far.Process.Cmd.Process.Signal(sig); err != nil {
			t.Error(err)
		}
	}
	signal(syscall.SIGSTOP)
	defer signal(syscall.SIGCONT)             // a process that is stopped does not end with the test
	admin.Tsh("rm", "node", "old-node").OK(t) // locks it
	until("while a node does not run", func(got authrpc.LockConfirmationsResponse) bool {
		return got.Revision > 0 && got.Confirmed == 2 && got.Attached == 3 &&
			len(got.Silent) == 1 && got.Silent[0].Name == "far-node" && !got.Silent[0].Time.IsZero()
	})
	signal(syscall.SIGCONT)
	until("when it runs again", all(3))
}

// authClient calls auth with the login of a client.
func authClient(t *testing.T, c *harness.Client) *authrpc.Client {
	t.Helper()
	home := profile.Home(filepath.Join(c.Home, ".tsh"))
	prof, err := home.Load(filepath.Base(c.ProfileDir()))
	if err != nil {
		t.Fatal(err)
	}
	show := func() (*tls.Certificate, error) { return &prof.X509, nil }
	cfg := identity.PinnedTLS(prof.Pin, prof.Cluster, identity.ALPNAuth, show, time.Now, identity.Auth)
	client := authrpc.NewClient(prof.FirstProxy().Address, cfg)
	t.Cleanup(client.Close)
	return client
}
