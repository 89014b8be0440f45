//go:build integration

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// BenchmarkTrueOnANode compares one "run true on the machine behind the door" by tsh, by OpenSSH through our proxy, and by OpenSSH
// through a jump host of sshd, in one run. Ratios count, not seconds.
func BenchmarkTrueOnANode(b *testing.B) {
	d := harness.StartDemo(b)
	c := harness.NewClient(b)
	c.Login(d, d.Alice())
	cfg := harness.WriteFile(b, c.Home, "ssh_config", c.Tsh("config").OK(b))
	peer := startSSHD(b)
	ways := []struct {
		name string
		cmd  []string
	}{
		{"tsh", []string{c.Path(), "ssh", d.Login + "@" + d.Node, "true"}},
		{"openssh-by-tsh-proxy", []string{"ssh", "-F", cfg, d.Login + "@" + d.Node + ".demo.threshold.test", "true"}},
		{"openssh-J-through-threshold", []string{"ssh", "-F", cfg, "-J", "x@" + d.Proxy, d.Login + "@" + d.Node, "true"}},
		{"openssh-J-through-sshd", append([]string{"ssh", "-F", peer, "-J", "jump", "target"}, "true")},
	}
	for _, way := range ways {
		b.Run(way.name, func(b *testing.B) {
			for b.Loop() {
				harness.Run(b, c.Env, nil, way.cmd[0], way.cmd[1:]...).OK(b)
			}
		})
	}
}

// startSSHD runs two OpenSSH servers on loopback, a jump host and a target, and returns a client configuration that knows them.
func startSSHD(b *testing.B) (config string) {
	b.Helper()
	dir := b.TempDir()
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			b.Fatalf("ssh-keygen: %v %s", err, out)
		}
	}
	pub, err := os.ReadFile(filepath.Join(dir, "user.pub"))
	if err != nil {
		b.Fatal(err)
	}
	harness.WriteFile(b, dir, "authorized", string(pub))
	if harness.Account(b) == "root" {
		_ = os.MkdirAll("/run/sshd", 0o755) // sshd's own, where it runs as root
	}
	var client strings.Builder
	for _, name := range []string{"jump", "target"} {
		host, port, _ := strings.Cut(harness.FreeAddr(b, "127.0.0.1"), ":")
		cfg := fmt.Sprintf("ListenAddress %s\nPort %s\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nStrictModes no\nPidFile none\nPasswordAuthentication no\nUsePAM no\nPermitRootLogin yes\nUseDNS no\n", host, port, dir, dir)
		p := harness.Start(b, nil, "/usr/sbin/sshd", "-D", "-e", "-f", harness.WriteFile(b, dir, name+".conf", cfg))
		p.WaitFor("Server listening")
		fmt.Fprintf(&client, "Host %s\n  HostName %s\n  Port %s\n", name, host, port)
	}
	fmt.Fprintf(&client, "Host *\n  User %s\n  IdentityFile %s/user\n  IdentitiesOnly yes\n  BatchMode yes\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n",
		harness.Account(b), dir)
	return harness.WriteFile(b, dir, "client.conf", client.String())
}

// BenchmarkAgentMemory measures the agent's resident memory before its first session and with one, its children not counted.
func BenchmarkAgentMemory(b *testing.B) {
	proxy := harness.FreeAddr(b, "127.0.0.1")
	s := harness.StartServer(b, proxy, harness.StartProvider(b, "127.0.0.1", proxy), "")
	c := harness.NewClient(b)
	c.FirstLogin(s, harness.Alice())
	node := harness.StartNode(b, proxy, c.Token("node"), "small-node")
	rest := residentMB(b, node.Process.Cmd.Process.Pid)
	for b.Loop() {
		cmd := c.Command("ssh", "small-node", "echo live; cat")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		session := harness.StartCmd(b, cmd)
		session.WaitFor("live")
		b.ReportMetric(rest, "MB-at-rest")
		b.ReportMetric(residentMB(b, node.Process.Cmd.Process.Pid), "MB-with-a-session")
		stdin.Close()
		if err := session.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}

func residentMB(b *testing.B, pid int) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kb / 1024
		}
	}
	b.Fatal("no VmRSS")
	return 0
}
