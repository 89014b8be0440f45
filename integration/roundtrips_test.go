//go:build integration

package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
)

// maxRoundTrips is how many round trips tsh may need from its start to the first byte of a command's
// output: TCP, TLS, the SSH versions, the key exchange, the service request, the "none" request, the key,
// its signature, and the channel with the command.
const maxRoundTrips = 9

// relayRoundTrip is so long that a pause of the machine is not taken for a round trip.
const relayRoundTrip = 150 * time.Millisecond

// Users far from the proxy see a command's output after few round trips.
func TestACommandNeedsFewRoundTrips(t *testing.T) {
	d := harness.StartDemo(t)
	c := harness.NewClient(t)
	c.Login(d, d.Alice())
	r := harness.StartRelay(t, d.Proxy, relayRoundTrip)
	c.UseRelay(r.Addr)
	const program = "echo up; cat"
	target := d.Login + "@" + d.Node
	if got := countTrips(t, r, c.Command("ssh", target, program)); got > maxRoundTrips {
		t.Errorf("tsh ssh: got %d round trips, want at most %d\n%s", got, maxRoundTrips, r.Log())
	}
	terminal := "stty size; cat" // a terminal needs no round trip more
	if got := countTrips(t, r, c.Command("ssh", "-t", target, terminal)); got > maxRoundTrips {
		t.Errorf("tsh ssh -t: got %d round trips, want at most %d\n%s", got, maxRoundTrips, r.Log())
	}
	cfg := harness.WriteFile(t, c.Home, "ssh_config", c.Tsh("config").OK(t))
	openSSH := exec.Command("ssh", "-F", cfg, "-o", "BatchMode=yes", target+".demo.threshold.test", program)
	openSSH.Env = c.Command().Env
	byProxyCommand := countTrips(t, r, openSSH)
	byLog := r.Log()
	direct := directTrips(t, program)
	t.Logf("at most %d with tsh, %d with OpenSSH by ProxyCommand, %d with OpenSSH to its own server",
		maxRoundTrips, byProxyCommand, direct)
	if byProxyCommand > direct+1 {
		t.Errorf("OpenSSH by tsh proxy ssh: got %d round trips, want at most %d\n%s",
			byProxyCommand, direct+1, byLog)
	}
}

// countTrips runs a command that prints a line and then reads its input, and counts the round trips until
// that line.
func countTrips(t testing.TB, r *harness.Relay, cmd *exec.Cmd) int {
	t.Helper()
	r.Reset()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var words strings.Builder
	cmd.Stderr = &words
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, err = bufio.NewReader(out).ReadByte()
	got := r.Trips()
	_ = in.Close()
	_ = cmd.Process.Kill()
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait()
	if err != nil {
		t.Fatalf("%s: no output (%v): %s\n%s", strings.Join(cmd.Args, " "), err, words.String(), r.Log())
	}
	return got
}

// directTrips counts the same for OpenSSH's client and server with only the relay between them.
func directTrips(t *testing.T, program string) int {
	t.Helper()
	cfg, target := startPlainSSHD(t)
	r := harness.StartRelay(t, target, relayRoundTrip)
	host, port, err := net.SplitHostPort(r.Addr)
	if err != nil {
		t.Fatal(err)
	}
	return countTrips(t, r, exec.Command("ssh", "-F", cfg, "-p", port, host, program))
}

// BenchmarkRoundTrips measures the same by time: how many times 100 ms a session takes longer if a round
// trip takes 100 ms longer. It checks what the relay counts, and includes the end of the session.
func BenchmarkRoundTrips(b *testing.B) {
	d := harness.StartDemo(b)
	c := harness.NewClient(b)
	c.Login(d, d.Alice())
	near := harness.StartRelay(b, d.Proxy, 50*time.Millisecond)
	far := harness.StartRelay(b, d.Proxy, 150*time.Millisecond)
	run := func(r *harness.Relay) time.Duration {
		c.UseRelay(r.Addr)
		start := time.Now()
		c.Tsh("ssh", d.Login+"@"+d.Node, "true").OK(b)
		return time.Since(start)
	}
	var more time.Duration
	for b.Loop() {
		more += run(far) - run(near)
	}
	b.ReportMetric(more.Seconds()/0.1/float64(b.N), "roundtrips")
}

// startPlainSSHD runs the OpenSSH server of Debian on loopback. It returns the path of a client
// configuration with access to it, and its address.
func startPlainSSHD(t *testing.T) (config, addr string) {
	t.Helper()
	dir := t.TempDir()
	for _, key := range []string{"host", "user"} {
		file := filepath.Join(dir, key)
		harness.Run(t, nil, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file).OK(t)
	}
	addr = harness.FreeAddr(t, "127.0.0.1")
	if harness.Account(t) == "root" {
		_ = os.MkdirAll("/run/sshd", 0o755) // sshd wants it if it runs as root
	}
	server := harness.WriteFile(t, dir, "sshd.conf", fmt.Sprintf(`ListenAddress %s
HostKey %s/host
AuthorizedKeysFile %s/user.pub
StrictModes no
PidFile none
PasswordAuthentication no
UsePAM no
PermitRootLogin yes
UseDNS no
`, addr, dir, dir))
	harness.Start(t, nil, "/usr/sbin/sshd", "-D", "-e", "-f", server).WaitFor("Server listening")
	return harness.WriteFile(t, dir, "client.conf", fmt.Sprintf(`User %s
IdentityFile %s/user
IdentitiesOnly yes
BatchMode yes
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
`, harness.Account(t), dir)), addr
}
