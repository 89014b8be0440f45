//go:build integration

package integration

import (
	"flag"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

var update = flag.Bool("update", false, "write docs/compatibility.md with what the clients showed")

const compatibilityPage = "../docs/compatibility.md"

const introduction = `# Compatibility

What works with a well-configured OpenSSH server that uses certificates works with a Threshold node. Tests
write this page (` + "`make compatibility`" + `). They use the clients of Debian through a proxy, and
fail when the page is no longer true. "yes" was tried and works. "no" was tried and is refused with a helpful
error. An empty field was not tried, or the client does not have the feature.
`

// clients are the clients of users, each with its test.
var clients = []struct {
	name    string
	version []string // the command that prints its version; nil for a part of this release
	story   func(*testing.T, *clientFixture, *harness.ClientReport)
}{
	{"tsh", nil, tshStory},
	{"OpenSSH", []string{"ssh", "-V"}, opensshStory},
	{"VS Code's pattern over OpenSSH", []string{"ssh", "-V"}, vscodeStory},
	{"rsync", []string{"rsync", "--version"}, rsyncStory},
	{"git", []string{"git", "--version"}, gitStory},
	{"Ansible", []string{"ansible", "--version"}, ansibleStory},
	{"PuTTY", []string{"plink", "-V"}, puttyStory},
	{
		"Paramiko",
		[]string{python, "-W", "ignore", "-c", "import paramiko; print(paramiko.__version__)"},
		paramikoStory,
	},
	{
		"AsyncSSH",
		[]string{python, "-W", "ignore", "-c", "import asyncssh; print(asyncssh.__version__)"},
		asyncsshStory,
	},
	{"Go's x/crypto/ssh", []string{"go", "list", "-m", "golang.org/x/crypto"}, goStory},
	{"lftp", []string{"lftp", "--version"}, lftpStory},
	{"Dropbear's dbclient", []string{"dbclient", "-V"}, dropbearStory},
}

// Users keep the clients that they have. Each client is tried on one cluster. Afterwards
// docs/compatibility.md must say what was found.
func TestCommonClientsWork(t *testing.T) {
	o := newClientFixture(t)
	report := &harness.CompatibilityReport{}
	t.Run("clients", func(t *testing.T) {
		for _, c := range clients {
			e := report.AddClient(t, c.name, c.version...)
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				e.MarkStarted()
				c.story(t, o, e)
			})
		}
	})
	if !report.Complete() || t.Failed() {
		return
	}
	page := report.Page(introduction)
	if *update {
		if err := os.WriteFile(compatibilityPage, page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(compatibilityPage); err != nil || !harness.SamePage(have, page) {
		const format = "docs/compatibility.md differs (%v): check it, then run: make compatibility\n%s"
		t.Errorf(format, err, page)
	}
}

// clientFixture is a cluster with two nodes, an account on them, and a user who is logged in and may use it.
type clientFixture struct {
	*harness.Server
	client  *harness.Client
	account *user.User
	config  string   // path of the output of tsh config
	profile string   // the folder of the login
	nodes   []string // names, with the cluster's
}

func newClientFixture(t *testing.T) *clientFixture {
	t.Helper()
	proxy, dir := harness.FreeAddr(t, "127.0.0.1"), t.TempDir()
	o := &clientFixture{account: harness.MakeAccount(t, "thclient"), client: harness.NewClient(t)}
	provider, seal := harness.StartProvider(t, "127.0.0.1", proxy), filepath.Join(dir, "seal.key")
	const actions = "shell, exec, sftp, forward-local, forward-remote, forward-agent"
	bootstrap := harness.BootstrapFor(provider, seal, actions, o.account.Username)
	o.Server = harness.StartServerFrom(t, dir, proxy, bootstrap, "")
	o.client.FirstLogin(o.Server, harness.Alice())
	for _, name := range []string{"anvil", "bellows"} {
		harness.StartNode(t, proxy, o.client.Token("node"), name)
		o.nodes = append(o.nodes, name+"."+harness.ClusterName)
	}
	o.config = harness.WriteFile(t, o.client.Home, "ssh_config", o.client.Tsh("config").OK(t))
	o.profile = o.client.ProfileDir()
	return o
}

// target is the account on the first node.
func (o *clientFixture) target() string { return o.account.Username + "@" + o.nodes[0] }

// options make ssh, scp and sftp use the user's configuration and never ask for input.
func (o *clientFixture) options(more ...string) []string {
	return append([]string{"-F", o.config, "-o", "BatchMode=yes"}, more...)
}

// sshCommand is ssh with these options, for programs that call it.
func (o *clientFixture) sshCommand() string { return "ssh -F " + o.config + " -o BatchMode=yes" }

// proxyCommand is the command that connects a client to a node. node may be a placeholder such as %h.
func (o *clientFixture) proxyCommand(t *testing.T, node string) string {
	home, tsh := filepath.Join(o.client.Home, ".tsh"), harness.Bin(t, "tsh")
	return "env TSH_HOME=" + home + " " + tsh + " proxy ssh --proxy " + o.Proxy + " " + node
}

// run runs a program with the user's environment.
func (o *clientFixture) run(t *testing.T, name string, args ...string) harness.Result {
	t.Helper()
	return harness.Run(t, o.client.Env, nil, name, args...)
}

// home is a path in the account's home.
func (o *clientFixture) home(name string) string { return filepath.Join(o.account.HomeDir, name) }

// start returns a command with the user's environment, which the caller starts.
func (o *clientFixture) start(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), append(o.client.Env, "TERM=xterm")...)
	return cmd
}

// startUntilEnd starts a program that runs until the test ends. The program is killed, because ssh misses an
// interrupt that comes just before its poll(2).
func startUntilEnd(t *testing.T, cmd *exec.Cmd) *harness.Process {
	t.Helper()
	p := harness.StartCmd(t, cmd)
	t.Cleanup(p.Kill)
	return p
}
