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
)

var page = flag.String("figures", "", "write what the benchmarks measured into the table of this `FILE`")

func TestMain(m *testing.M) {
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

// benchmark is the same machine behind two doors: a Threshold proxy, and a jump host of Debian's sshd. Both
// are reached at loopback, and again through relays that make the way to the door 50 ms long.
type benchmark struct {
	client  *harness.Client
	account *user.User
	proxy   *harness.Process // threshold: auth and proxy in one
	agent   *harness.Process
	jump    *harness.Process // sshd
	near    routes
	far     routes
}

// routes are ways to run a command on the machine.
type routes struct {
	tsh      func(command string) *exec.Cmd
	openssh  func(command string, options ...string) *exec.Cmd // stock ssh with tsh's ProxyCommand
	viaProxy func(command string, options ...string) *exec.Cmd // ssh -J through the proxy
	viaSSHD  func(command string, options ...string) *exec.Cmd // ssh -J through the jump host
	aesSSHD  func(command string, options ...string) *exec.Cmd // the same at AES-GCM, on both hops: -c is not for the first
}

const (
	benchNode = "bench-node"
	// roundTrip is that of a person who is not next door.
	roundTrip = 50 * time.Millisecond
)

func startBenchmark(b *testing.B) *benchmark {
	b.Helper()
	proxy := harness.FreeAddr(b, "127.0.0.1")
	account := harness.MakeAccount(b, "thbench") // whose shell reads nothing that somebody put into a home
	dir := b.TempDir()
	birth := harness.BootstrapFor(
		harness.StartProvider(b, "127.0.0.1", proxy),
		filepath.Join(dir, "seal.key"),
		"shell, exec, sftp",
		account.Username,
	)
	s := harness.StartServerFrom(b, dir, proxy, birth, "")
	c := harness.NewClient(b)
	c.FirstLogin(s, harness.Alice())
	p := &benchmark{client: c, proxy: s.Process, account: account}
	p.agent = harness.StartNode(b, proxy, c.Token("node"), benchNode).Process
	c.Until(func(out string) bool { return strings.Contains(out, benchNode) }, "ls", "-q")
	jumpAddr := p.startSSHD(b, dir)

	p.near = p.routesAt(b, dir, proxy, jumpAddr)
	relay, relayedJump := harness.StartRelay(b, proxy, roundTrip), harness.StartRelay(b, jumpAddr, roundTrip)
	far := *c
	far.Home = b.TempDir()
	far.Env = append([]string(nil), c.Env...)
	p.client = &far
	if err := os.CopyFS(filepath.Join(far.Home, ".tsh"), os.DirFS(filepath.Join(c.Home, ".tsh"))); err != nil {
		b.Fatal(err)
	}
	far.Env = []string{"TSH_HOME=" + filepath.Join(far.Home, ".tsh"), "HOME=" + far.Home, "SSH_AUTH_SOCK="}
	far.UseRelay(proxy, relay.Addr)
	p.far = p.routesAt(b, dir, relay.Addr, relayedJump.Addr)
	p.client = c
	return p
}

// routesAt are the ways to the machine by a proxy and a jump host at these addresses.
func (p *benchmark) routesAt(b *testing.B, dir, proxy, jump string) routes {
	b.Helper()
	c := p.client
	cfg := harness.WriteFile(
		b,
		c.Home,
		"ssh_config",
		c.Tsh("config").OK(b)+"\nHost *\n  BatchMode yes\n  LogLevel ERROR\n",
	)
	host, port, _ := strings.Cut(jump, ":")
	plain := fmt.Sprintf("Include %s/target.client\nHost jump\n  HostName %s\n  Port %s\n", dir, host, port)
	atAES := harness.WriteFile(
		b,
		dir,
		"aes-"+port+".conf",
		plain+"Host *\n  Ciphers aes128-gcm@openssh.com\n",
	)
	plain = harness.WriteFile(b, dir, "client-"+port+".conf", plain)
	ssh := func(args ...string) func(string, ...string) *exec.Cmd {
		return func(command string, options ...string) *exec.Cmd {
			all := append(append(append([]string(nil), options...), args...), command)
			cmd := exec.Command("ssh", all...)
			cmd.Env = append(os.Environ(), c.Env...)
			return cmd
		}
	}
	return routes{
		tsh:      func(command string) *exec.Cmd { return c.Command("ssh", p.account.Username+"@"+benchNode, command) },
		openssh:  ssh("-F", cfg, p.account.Username+"@"+benchNode+"."+harness.ClusterName),
		viaProxy: ssh("-F", cfg, "-J", "x@"+proxy, p.account.Username+"@"+benchNode),
		viaSSHD:  ssh("-F", plain, "-J", "jump", "target"),
		aesSSHD:  ssh("-F", atAES, "-J", "jump", "target"),
	}
}

// startSSHD runs two OpenSSH servers on loopback, a jump host and a target, and returns the jump host's
// address. target.client in dir is what a client must know.
func (p *benchmark) startSSHD(b *testing.B, dir string) (jump string) {
	b.Helper()
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			b.Fatalf("ssh-keygen: %v %s", err, out)
		}
	}
	harness.AsRoot(
		b,
		"install",
		"-m",
		"600",
		"-o",
		p.account.Username,
		filepath.Join(dir, "user.pub"),
		filepath.Join(p.account.HomeDir, "authorized"),
	)
	harness.AsRoot(
		b,
		"usermod",
		"--password",
		"*",
		p.account.Username,
	) // no password, as before, but not locked: sshd without PAM minds
	if harness.Account(b) == "root" {
		_ = os.MkdirAll("/run/sshd", 0o755) // sshd's own, where it runs as root
	}
	var target string
	for _, name := range []string{"target", "jump"} {
		addr := harness.FreeAddr(b, "127.0.0.1")
		host, port, _ := strings.Cut(addr, ":")
		cfg := fmt.Sprintf(
			"ListenAddress %s\nPort %s\nHostKey %s/host\nAuthorizedKeysFile %%h/authorized\nStrictModes no\nPidFile none\nPasswordAuthentication no\nUsePAM no\nPermitRootLogin yes\nUseDNS no\nMaxStartups 200\n",
			host,
			port,
			dir,
		)
		server := harness.Start(
			b,
			nil,
			"/usr/sbin/sshd",
			"-D",
			"-e",
			"-f",
			harness.WriteFile(b, dir, name+".conf", cfg),
		)
		server.WaitFor("Server listening")
		if name == "jump" {
			p.jump, jump = server, addr
		} else {
			target = fmt.Sprintf("Host target\n  HostName %s\n  Port %s\n", host, port)
		}
	}
	harness.WriteFile(
		b,
		dir,
		"target.client",
		target+fmt.Sprintf(
			"Host *\n  User %s\n  IdentityFile %s/user\n  IdentitiesOnly yes\n  BatchMode yes\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n",
			p.account.Username,
			dir,
		),
	)
	return jump
}

// must runs a command whose output nobody wants.
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

// BenchmarkBesideOpenSSH compares Threshold with OpenSSH doing the same in the same run, in turns. Ratios
// count, not seconds.
func BenchmarkBesideOpenSSH(b *testing.B) {
	p := startBenchmark(b)
	b.Run("true", func(b *testing.B) { p.compareTrue(b, "loopback", p.near, 20, 0.25) })
	b.Run("true-at-50ms", func(b *testing.B) { p.compareTrue(b, "50 ms", p.far, 8, 0.4) })
	b.Run("gigabyte", p.compareGigabyte)
	b.Run("sessions", p.compareSessions)
}

func (p *benchmark) compareTrue(b *testing.B, where string, d routes, rounds int, bound float64) {
	for b.Loop() {
		run := func(way func(string, ...string) *exec.Cmd) func() { return func() { must(b, way("true")) } }
		t := harness.MedianTimes(
			rounds,
			func() { must(b, d.tsh("true")) },
			run(d.openssh),
			run(d.viaProxy),
			run(d.viaSSHD),
		)
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

// compareGigabyte moves 1 GiB each way, and asks both doors for the processor time they took.
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
		}{{"from the node", fmt.Sprintf("head -c %d /dev/zero", gigabyte), down}, {"to the node", "cat >/dev/null", up}} {
			var proxy, jump, jumpAES time.Duration
			t := harness.MedianTimes(2,
				func() {
					proxy += harness.CPUDuring(
						b,
						p.proxy.Cmd.Process.Pid,
						func() { way.run(p.near.tsh(way.command)) },
					)
				},
				func() { way.run(p.near.openssh(way.command, aes)) },
				func() {
					jump += harness.CPUDuring(
						b,
						p.jump.Cmd.Process.Pid,
						func() { way.run(p.near.viaSSHD(way.command)) },
					)
				},
				func() {
					jumpAES += harness.CPUDuring(
						b,
						p.jump.Cmd.Process.Pid,
						func() { way.run(p.near.aesSSHD(way.command)) },
					)
				})
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
					What:  "processor time of the proxy for 1 GB " + way.name + ", against the jump host by default",
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

// compareSessions counts how many commands a door can start in a second, with clients on the same cores.
func (p *benchmark) compareSessions(b *testing.B) {
	const clients, span = 8, 6 * time.Second
	rate := func(run func() *exec.Cmd) float64 {
		var done atomic.Int64
		var all sync.WaitGroup
		began := time.Now()
		for range clients {
			all.Go(func() {
				for time.Since(began) < span {
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
		return float64(done.Load()) / time.Since(began).Seconds()
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

// BenchmarkAgentMemory measures the agent's resident memory at rest, with one session and with 20 more that
// are idle.
func BenchmarkAgentMemory(b *testing.B) {
	for b.Loop() {
		p := startBenchmark(b) // an agent that has had a session keeps some of what that took
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
		harness.Report(
			b,
			harness.Measurement{What: "agent at rest", Unit: "MB", Ours: rest, Bound: 13},
			harness.Measurement{What: "agent with one session", Unit: "MB", Ours: one, Bound: 15},
			harness.Measurement{
				What:  "agent for each further idle session",
				Unit:  "MB",
				Ours:  max(0, many-one) / further,
				Bound: 0.5,
			},
		)
		for _, end := range ends {
			end()
		}
	}
}
