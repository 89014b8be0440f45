//go:build integration

package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// tshStory uses tsh, with which the other clients are compared.
func tshStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	node := o.account.Username + "@anvil"
	e.Supports(
		t,
		"runs a command as the account with separate output, errors and exit status",
		func(t *testing.T) {
			r := o.client.Tsh("ssh", node, "id -un; echo oops >&2; exit 7")
			if strings.TrimSpace(r.Stdout) != o.account.Username || strings.TrimSpace(r.Stderr) != "oops" ||
				r.Code != 7 {
				t.Errorf("got %+v, want the account, oops and 7", r)
			}
		},
		harness.Certificate,
		harness.Exec,
	)
	e.Supports(t, "opens a shell on a terminal that changes its size", func(t *testing.T) {
		usesATerminal(t, o.client.Command("ssh", node))
	}, harness.Shell)
	e.Supports(t, "copies a file both ways", func(t *testing.T) {
		dir := t.TempDir()
		data := writeRandomFile(t, filepath.Join(dir, "from"), 3<<20)
		o.client.Tsh("scp", filepath.Join(dir, "from"), node+":tsh-there").OK(t)
		o.client.Tsh("scp", node+":tsh-there", filepath.Join(dir, "back")).OK(t)
		wantFile(t, filepath.Join(dir, "back"), data)
	}, harness.SFTP, harness.SCP)
	e.Supports(t, "forwards with -L, -R and -D", func(t *testing.T) {
		server := startEcho(t, "tcp", "127.0.0.1:0")
		local, remote := harness.FreeAddr(t, "127.0.0.1"), harness.FreeAddr(t, "127.0.0.1")
		socks := harness.FreeAddr(t, "127.0.0.1")
		args := []string{"ssh", "-N", "-L", local + ":" + server, "-R", remote + ":" + server}
		args = append(args, "-D", socks, node)
		startUntilEnd(t, o.client.Command(args...))
		checkClientEcho(t, dialer("tcp", local))
		checkClientEcho(t, dialer("tcp", remote))
		checkClientEcho(t, bySOCKS(socks, server))
	}, harness.Local, harness.Remote, harness.Dynamic)
	e.Supports(t, "forwards Unix sockets both ways", func(t *testing.T) {
		forwardsSockets(t, func(flags ...string) *exec.Cmd {
			return o.client.Command(append(append([]string{"ssh"}, flags...), node)...)
		})
	}, harness.Sockets)
	e.Supports(t, "forwards its agent with -A: the keys that may be used from the node", func(t *testing.T) {
		forwardsItsAgent(
			t,
			o,
			func(flag, command string) []string {
				return []string{o.client.Path(), "ssh", flag, node, command}
			},
		)
	}, harness.Agent)
}
