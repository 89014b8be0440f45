//go:build integration

package integration

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
	"github.com/threshold-access/threshold/node/asaccount"
	"github.com/threshold-access/threshold/node/process"
)

var page = flag.String("figures", "", "write what the benchmarks measured into the table of this `FILE`")

// TestMain runs the tests in namespaces of their own, and afterwards writes the measurements if -figures is
// given.
func TestMain(m *testing.M) {
	for _, helper := range []func() (int, bool){process.RunHelper, asaccount.RunHelper} {
		if code, is := helper(); is { // of a node in this process
			os.Exit(code)
		}
	}
	if err := harness.Isolate(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	flag.Parse()
	code := m.Run()
	if *page != "" {
		if err := harness.WriteMeasurements(*page); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// benchmark is one machine that is reached through a Threshold proxy and through a jump host with Debian's
// sshd: on loopback, and through relays with a round trip of 50 ms in front of both.
type benchmark struct {
	client  *harness.Client
	account *user.User
	proxy   *harness.Process // threshold with auth and proxy
	agent   *harness.Process
	jump    *harness.Process // sshd of the jump host
	near    routes           // on loopback
	far     routes           // through the relays
}

// routes are ways to run a command on the machine.
type routes struct {
	tsh      func(command string) *exec.Cmd
	openssh  sshRoute // OpenSSH with tsh's ProxyCommand
	viaProxy sshRoute // ssh -J through the proxy
	viaSSHD  sshRoute // ssh -J through the jump host
	aesSSHD  sshRoute // the same with AES-GCM on both hops; -c would apply to the second hop only
}

// sshRoute returns the command of OpenSSH's client that runs a command on the machine.
type sshRoute = func(command string, options ...string) *exec.Cmd

const (
	benchNode = "bench-node"
	roundTrip = 50 * time.Millisecond // to the proxy or jump host through a relay
)

func startBenchmark(b *testing.B) *benchmark {
	b.Helper()
	proxy := harness.FreeAddr(b, "127.0.0.1")
	account := harness.MakeAccount(b, "thbench") // its shell has no start-up files that could slow it
	dir := b.TempDir()
	provider, seal := harness.StartProvider(b, "127.0.0.1", proxy), filepath.Join(dir, "seal.key")
	bootstrap := harness.BootstrapFor(provider, seal, "shell, exec, sftp", account.Username)
	s := harness.StartServerFrom(b, dir, proxy, bootstrap, "")
	c := harness.NewClient(b)
	c.FirstLogin(s, harness.Alice())
	p := &benchmark{client: c, proxy: s.Process, account: account}
	p.agent = harness.StartNode(b, proxy, c.Token("node"), benchNode).Process
	c.Until(func(out string) bool { return strings.Contains(out, benchNode) }, "ls", "-q")
	jumpAddr := p.startSSHD(b, dir)

	p.near = p.routesAt(b, dir, proxy, jumpAddr)
	relay, jumpRelay := harness.StartRelay(b, proxy, roundTrip), harness.StartRelay(b, jumpAddr, roundTrip)
	far := *c
	far.Home = b.TempDir()
	far.Env = append([]string(nil), c.Env...)
	p.client = &far
	login := filepath.Join(far.Home, ".tsh")
	must(b, exec.Command("cp", "-a", filepath.Join(c.Home, ".tsh"), login)) // with the modes of the keys
	far.Env = []string{"TSH_HOME=" + login, "HOME=" + far.Home, "SSH_AUTH_SOCK="}
	far.UseRelay(relay.Addr)
	p.far = p.routesAt(b, dir, relay.Addr, jumpRelay.Addr)
	p.client = c
	return p
}

// routesAt are the ways to the machine with the proxy and the jump host at these addresses.
func (p *benchmark) routesAt(b *testing.B, dir, proxy, jump string) routes {
	b.Helper()
	c := p.client
	text := c.Tsh("config").OK(b) + "\nHost *\n  BatchMode yes\n  LogLevel ERROR\n"
	cfg := harness.WriteFile(b, c.Home, "ssh_config", text)
	host, port, _ := strings.Cut(jump, ":")
	plain := fmt.Sprintf("Include %s/target.client\nHost jump\n  HostName %s\n  Port %s\n", dir, host, port)
	withAES := plain + "Host *\n  Ciphers aes128-gcm@openssh.com\n"
	withAES = harness.WriteFile(b, dir, "aes-"+port+".conf", withAES)
	plain = harness.WriteFile(b, dir, "client-"+port+".conf", plain)
	ssh := func(args ...string) sshRoute {
		return func(command string, options ...string) *exec.Cmd {
			all := append(append(append([]string(nil), options...), args...), command)
			cmd := exec.Command("ssh", all...)
			cmd.Env = append(os.Environ(), c.Env...)
			return cmd
		}
	}
	target := p.account.Username + "@" + benchNode
	return routes{
		tsh:      func(command string) *exec.Cmd { return c.Command("ssh", target, command) },
		openssh:  ssh("-F", cfg, target+"."+harness.ClusterName),
		viaProxy: ssh("-F", cfg, "-J", "x@"+proxy, target),
		viaSSHD:  ssh("-F", plain, "-J", "jump", "target"),
		aesSSHD:  ssh("-F", withAES, "-J", "jump", "target"),
	}
}

// startSSHD runs two OpenSSH servers on loopback, a jump host and a target, and returns the address of the
// jump host. It writes the client's configuration for the target to target.client in dir.
func (p *benchmark) startSSHD(b *testing.B, dir string) (jump string) {
	b.Helper()
	for _, key := range []string{"host", "user"} {
		file := filepath.Join(dir, key)
		harness.Run(b, nil, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file).OK(b)
	}
	login, home := p.account.Username, p.account.HomeDir
	public, authorized := filepath.Join(dir, "user.pub"), filepath.Join(home, "authorized")
	harness.AsRoot(b, "install", "-m", "600", "-o", login, public, authorized)
	// Without PAM sshd refuses a locked account. The password "*" is none, but does not lock the account.
	harness.AsRoot(b, "usermod", "--password", "*", login)
	if harness.Account(b) == "root" {
		_ = os.MkdirAll("/run/sshd", 0o755) // which sshd needs when it runs as root
	}
	var target string
	for _, name := range []string{"target", "jump"} {
		addr := harness.FreeAddr(b, "127.0.0.1")
		host, port, _ := strings.Cut(addr, ":")
		cfg := fmt.Sprintf(`ListenAddress %s
Port %s
HostKey %s/host
AuthorizedKeysFile %%h/authorized
StrictModes no
PidFile none
PasswordAuthentication no
UsePAM no
PermitRootLogin yes
UseDNS no
MaxStartups 200
`, host, port, dir)
		file := harness.WriteFile(b, dir, name+".conf", cfg)
		server := harness.Start(b, nil, "/usr/sbin/sshd", "-D", "-e", "-f", file)
		server.WaitFor("Server listening")
		if name == "jump" {
			p.jump, jump = server, addr
		} else {
			target = fmt.Sprintf("Host target\n  HostName %s\n  Port %s\n", host, port)
		}
	}
	harness.WriteFile(b, dir, "target.client", target+fmt.Sprintf(`Host *
  User %s
  IdentityFile %s/user
  IdentitiesOnly yes
  BatchMode yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
`, login, dir))
	return jump
}

// must runs a command and ends the benchmark if it fails.
func must(b *testing.B, cmd *exec.Cmd) {
	b.Helper()
	var errs strings.Builder
	if cmd.Stderr == nil {
		cmd.Stderr = &errs
	}
	if err := cmd.Run(); err != nil {
		b.Fatalf("%v: %v %s", cmd.Args, err, errs.String())
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// BenchmarkBesideOpenSSH compares Threshold with OpenSSH: both do the same, in turn, in one run. Only the
// ratios count, because the times depend on the machine.
func BenchmarkBesideOpenSSH(b *testing.B) {
	p := startBenchmark(b)
	b.Run("true", func(b *testing.B) { p.compareTrue(b, "loopback", p.near, 20, 0.25) })
	b.Run("true-at-50ms", func(b *testing.B) { p.compareTrue(b, "50 ms", p.far, 8, 0.4) })
	b.Run("gigabyte", p.compareGigabyte)
	b.Run("sessions", p.compareSessions)
}

// compareTrue compares the time to run the command true.
func (p *benchmark) compareTrue(b *testing.B, where string, r routes, rounds int, bound float64) {
	for b.Loop() {
		tsh := func() { must(b, r.tsh("true")) }
		ssh := func(route sshRoute) func() { return func() { must(b, route("true")) } }
		t := harness.MedianTimes(rounds, tsh, ssh(r.openssh), ssh(r.viaProxy), ssh(r.viaSSHD))
		peer := milliseconds(t[3])
		harness.Report(
			b,
			harness.Measurement{
				What:  "`tsh ssh node true`, " + where + ", against `ssh -J`",
				Unit:  "ms",
				Ours:  milliseconds(t[0]),
				Peer:  peer,
				Bound: bound,
			},
			harness.Measurement{
				What:  "the same by stock ssh with `tsh config`",
				Unit:  "ms",
				Ours:  milliseconds(t[1]),
				Peer:  peer,
				Bound: 1,
			},
			harness.Measurement{
				What:  "the same by stock `ssh -J` through the proxy",
				Unit:  "ms",
				Ours:  milliseconds(t[2]),
				Peer:  peer,
				Bound: 1,
			},
		)
		b.ReportMetric(milliseconds(t[0])/peer, "of-ssh-J")
	}
}

const (
	gigabyte = 1 << 30
	aes      = "-caes128-gcm@openssh.com"
)

// compareGigabyte moves 1 GiB in each direction, and compares the rates and the processor time of the proxy
// and of the jump host.
func (p *benchmark) compareGigabyte(b *testing.B) {
	zeros := filepath.Join(b.TempDir(), "zeros")
	if err := os.WriteFile(zeros, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Truncate(zeros, gigabyte); err != nil {
		b.Fatal(err)
	}
	down := func(cmd *exec.Cmd) { must(b, cmd) }
	up := func(cmd *exec.Cmd) {
		f, err := os.Open(zeros)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		cmd.Stdin = f
		must(b, cmd)
	}
	for b.Loop() {
		for _, way := range []struct {
			name    string
			command string
			run     func(*exec.Cmd)
		}{
			{"from the node", fmt.Sprintf("head -c %d /dev/zero", gigabyte), down},
			{"to the node", "cat >/dev/null", up},
		} {
			// counted runs a command and adds the processor time of the server meanwhile to sum.
			counted := func(sum *time.Duration, server *harness.Process, cmd func() *exec.Cmd) func() {
				pid := server.Cmd.Process.Pid
				return func() { *sum += harness.CPUDuring(b, pid, func() { way.run(cmd()) }) }
			}
			var proxy, jump, jumpAES time.Duration
			t := harness.MedianTimes(2,
				counted(&proxy, p.proxy, func() *exec.Cmd { return p.near.tsh(way.command) }),
				func() { way.run(p.near.openssh(way.command, aes)) },
				counted(&jump, p.jump, func() *exec.Cmd { return p.near.viaSSHD(way.command) }),
				counted(&jumpAES, p.jump, func() *exec.Cmd { return p.near.aesSSHD(way.command) }),
			)
			cpu := "processor time of the proxy for 1 GB " + way.name
			rate := func(d time.Duration) float64 { return gigabyte / 1e6 / d.Seconds() }
			cost := func(d time.Duration) float64 { return d.Seconds() / 2 / (gigabyte / 1e9) }
			harness.Report(
				b,
				harness.Measurement{
					What:    "1 GiB " + way.name + " by tsh, against `ssh -J` by default",
					Unit:    "MB/s",
					Ours:    rate(t[0]),
					Peer:    rate(t[2]),
					Bound:   1.5,
					AtLeast: true,
				},
				harness.Measurement{
					What:    "1 GiB " + way.name + " by tsh, against `ssh -J` at AES-GCM",
					Unit:    "MB/s",
					Ours:    rate(t[0]),
					Peer:    rate(t[3]),
					Bound:   1,
					AtLeast: true,
				},
				harness.Measurement{
					What:    "1 GiB " + way.name + " by stock ssh with `tsh config`, both at AES-GCM",
					Unit:    "MB/s",
					Ours:    rate(t[1]),
					Peer:    rate(t[3]),
					Bound:   1,
					AtLeast: true,
				},
				harness.Measurement{
					What:  cpu + ", against the jump host by default",
					Unit:  "s",
					Ours:  cost(proxy),
					Peer:  cost(jump),
					Bound: 1,
				},
				harness.Measurement{
					What:  "the same, against the jump host at AES-GCM",
					Unit:  "s",
					Ours:  cost(proxy),
					Peer:  cost(jumpAES),
					Bound: 2,
				},
			)
			b.ReportMetric(rate(t[0])/rate(t[2]), "x-ssh-J-"+strings.Fields(way.name)[0])
		}
	}
}

// compareSessions compares how many commands can be started in a second. The clients run on the same cores.
func (p *benchmark) compareSessions(b *testing.B) {
	const clients, span = 8, 6 * time.Second
	rate := func(run func() *exec.Cmd) float64 {
		var done atomic.Int64
		var all sync.WaitGroup
		start := time.Now()
		for range clients {
			all.Go(func() {
				for time.Since(start) < span {
					cmd := run()
					cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
					if err := cmd.Run(); err != nil {
						b.Errorf("%v: %v", cmd.Args, err)
						return
					}
					done.Add(1)
				}
			})
		}
		all.Wait()
		return float64(done.Load()) / time.Since(start).Seconds()
	}
	for b.Loop() {
		ours := rate(func() *exec.Cmd { return p.near.tsh("true") })
		stock := rate(func() *exec.Cmd { return p.near.openssh("true") })
		theirs := rate(func() *exec.Cmd { return p.near.viaSSHD("true") })
		harness.Report(
			b,
			harness.Measurement{
				What:    "new sessions a second by tsh, against `ssh -J`, clients on the same cores",
				Unit:    "/s",
				Ours:    ours,
				Peer:    theirs,
				Bound:   10,
				AtLeast: true,
			},
			harness.Measurement{
				What:    "the same by stock ssh with `tsh config`",
				Unit:    "/s",
				Ours:    stock,
				Peer:    theirs,
				Bound:   1,
				AtLeast: true,
			},
		)
		b.ReportMetric(ours/theirs, "x-ssh-J")
	}
}

// BenchmarkAgentMemory measures the resident memory of the agent without sessions, with one session, and
// with 20 more idle sessions.
func BenchmarkAgentMemory(b *testing.B) {
	for b.Loop() {
		p := startBenchmark(b) // a new agent each time, because an agent keeps some memory after a session
		pid := p.agent.Cmd.Process.Pid
		rest := harness.MemoryMB(b, pid, "VmRSS")
		var ends []func()
		open := func() {
			cmd := p.near.tsh("echo live; cat")
			stdin, err := cmd.StdinPipe()
			if err != nil {
				b.Fatal(err)
			}
			session := harness.StartCmd(b, cmd)
			session.WaitFor("live")
			ends = append(ends, func() { stdin.Close(); _ = session.Wait() })
		}
		open()
		one := harness.MemoryMB(b, pid, "VmRSS")
		const further = 20
		for range further {
			open()
		}
		many := harness.MemoryMB(b, pid, "VmRSS")
		each := max(0, many-one) / further
		harness.Report(
			b,
			harness.Measurement{What: "agent at rest", Unit: "MB", Ours: rest, Bound: 13},
			harness.Measurement{What: "agent with one session", Unit: "MB", Ours: one, Bound: 15},
			harness.Measurement{
				What:  "agent for each further idle session",
				Unit:  "MB",
				Ours:  each,
				Bound: 0.5,
			},
		)
		for _, end := range ends {
			end()
		}
	}
}
