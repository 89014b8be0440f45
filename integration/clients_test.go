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

var update = flag.Bool("update", false, "write docs/compatibility.md as the clients proved it")

const compatibilityPage = "../docs/compatibility.md"

const introduction = `# Compatibility

What works against a well-configured OpenSSH server with certificates works against a Threshold node. This page is written by the tests that
try it (` + "`make compatibility`" + `), with the clients of Debian and through a proxy, and the tests fail when it is no longer true. "yes" was
tried and works, "no" was tried and is refused with words that help, and an empty field is not the client's business, or was not tried.
`

// clients are people's own programs, each with its story.
var clients = []struct {
	name    string
	version []string // what prints it; nil for what is of this release
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

// People will not change their tools. Each brings their own to one cluster; then the page must say what they
// found.
func TestCommonClientsWork(t *testing.T) {
	o := newClientFixture(t)
	book := &harness.CompatibilityReport{}
	t.Run("clients", func(t *testing.T) {
		for _, c := range clients {
			e := book.AddClient(t, c.name, c.version...)
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				e.MarkStarted()
				c.story(t, o, e)
			})
		}
	})
	if !book.Complete() || t.Failed() {
		return
	}
	page := book.Page(introduction)
	if *update {
		if err := os.WriteFile(compatibilityPage, page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(compatibilityPage); err != nil || !harness.SamePage(have, page) {
		t.Errorf(
			"docs/compatibility.md is not what ran (%v): look at what changed, then run: make compatibility\n%s",
			err,
			page,
		)
	}
}

// clientFixture is where everybody brings their own client: a cluster with two machines, an account on them,
// and a person who is logged in.
type clientFixture struct {
	*harness.Server
	client  *harness.Client
	account *user.User
	config  string   // what tsh config prints
	profile string   // the folder that login wrote
	nodes   []string // by their whole names
}

func newClientFixture(t *testing.T) *clientFixture {
	t.Helper()
	proxy, dir := harness.FreeAddr(t, "127.0.0.1"), t.TempDir()
	o := &clientFixture{account: harness.MakeAccount(t, "thclient"), client: harness.NewClient(t)}
	birth := harness.BootstrapFor(
		harness.StartProvider(t, "127.0.0.1", proxy),
		filepath.Join(dir, "seal.key"),
		"shell, exec, sftp, forward-local, forward-remote, forward-agent",
		o.account.Username,
	)
	o.Server = harness.StartServerFrom(t, dir, proxy, birth, "")
	o.client.FirstLogin(o.Server, harness.Alice())
	for _, name := range []string{"anvil", "bellows"} {
		harness.StartNode(t, proxy, o.client.Token("node"), name)
		o.nodes = append(o.nodes, name+"."+harness.ClusterName)
	}
	o.config = harness.WriteFile(t, o.client.Home, "ssh_config", o.client.Tsh("config").OK(t))
	keys, err := filepath.Glob(filepath.Join(o.client.Home, ".tsh", "*", "ssh_key"))
	if err != nil || len(keys) != 1 {
		t.Fatalf("got keys %v, %v, want one", keys, err)
	}
	o.profile = filepath.Dir(keys[0])
	return o
}

// target names the account on the first machine, as every client does.
func (o *clientFixture) target() string { return o.account.Username + "@" + o.nodes[0] }

// options make ssh, scp and sftp use the person's configuration and ask nothing.
func (o *clientFixture) options(more ...string) []string {
	return append([]string{"-F", o.config, "-o", "BatchMode=yes"}, more...)
}

// sshCommand is ssh with what makes it work, as one word for the programs that call it.
func (o *clientFixture) sshCommand() string { return "ssh -F " + o.config + " -o BatchMode=yes" }

// proxyCommand is what leads a client to a machine; %host and the like stand for the machine's name.
func (o *clientFixture) proxyCommand(t *testing.T, node string) string {
	return "env TSH_HOME=" + filepath.Dir(
		o.profile,
	) + " " + harness.Bin(
		t,
		"tsh",
	) + " proxy ssh --proxy " + o.Proxy + " " + node
}

// run runs a program as the person.
func (o *clientFixture) run(t *testing.T, name string, args ...string) harness.Result {
	t.Helper()
	return harness.Run(t, o.client.Env, nil, name, args...)
}

// home is a path in the account's home.
func (o *clientFixture) home(name string) string { return filepath.Join(o.account.HomeDir, name) }

// start prepares a program to be started as the person.
func (o *clientFixture) start(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), append(o.client.Env, "TERM=xterm")...)
	return cmd
}

// startUntilEnd starts a program that serves until the story ends. ssh is killed, because a signal that it
// could heed is lost when it comes just before its poll(2).
func startUntilEnd(t *testing.T, cmd *exec.Cmd) *harness.Process {
	t.Helper()
	p := harness.StartCmd(t, cmd)
	t.Cleanup(p.Kill)
	return p
}
