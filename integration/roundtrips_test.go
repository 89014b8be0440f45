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

// maxRoundTrips is how many round trips tsh may spend from its start to the first byte of a command's output:
// TCP, TLS, SSH's versions, its key exchange, the service, "none", the key, its signature, and the channel
// with the command in it.
const maxRoundTrips = 9

// relayRoundTrip is a round trip so long that no hiccup of the machine looks like one.
const relayRoundTrip = 150 * time.Millisecond

// People far away wait for light: each round trip to the proxy counts, whatever the machines can do.
func TestRoundTripsToTheFirstByte(t *testing.T) {
	d := harness.StartDemo(t)
	c := harness.NewClient(t)
	c.Login(d, d.Alice())
	r := harness.StartRelay(t, d.Proxy, relayRoundTrip)
	c.UseRelay(d.Proxy, r.Addr)
	const program = "echo up; cat"
	target := d.Login + "@" + d.Node
	if got := countTrips(t, r, c.Command("ssh", target, program)); got > maxRoundTrips {
		t.Errorf("tsh ssh: got %d round trips, want at most %d\n%s", got, maxRoundTrips, r.Log())
	}
	terminal := "stty size; cat" // a terminal costs nothing more
	if got := countTrips(t, r, c.Command("ssh", "-t", target, terminal)); got > maxRoundTrips {
		t.Errorf("tsh ssh -t: got %d round trips, want at most %d\n%s", got, maxRoundTrips, r.Log())
	}
	cfg := harness.WriteFile(t, c.Home, "ssh_config", c.Tsh("config").OK(t))
	openSSH := exec.Command("ssh", "-F", cfg, "-o", "BatchMode=yes", target+".demo.threshold.test", program)
	openSSH.Env = c.Command().Env
	byProxyCommand := countTrips(t, r, openSSH)
	byLog := r.Log()
	direct := directTrips(t, program)
	t.Logf(
		"tsh %d or fewer, OpenSSH by ProxyCommand %d, OpenSSH to its own server %d",
		maxRoundTrips,
		byProxyCommand,
		direct,
	)
	if byProxyCommand > direct+1 {
		t.Errorf(
			"OpenSSH by tsh proxy ssh: got %d round trips, want at most one more than the %d to its own server\n%s",
			byProxyCommand,
			direct,
			byLog,
		)
	}
}

// countTrips runs a command whose output begins with a line and then waits for the end of its input, and
// counts the round trips to that line.
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
	_ = cmd.Process.Kill() // whatever it may still have to say
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait()
	if err != nil {
		t.Fatalf("%s: no output (%v): %s\n%s", strings.Join(cmd.Args, " "), err, words.String(), r.Log())
	}
	return got
}

// directTrips counts the same for OpenSSH's client and server with nothing but the relay between them.
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

// BenchmarkRoundTrips measures the same in time: what 100 ms more of a round trip add to the whole run, in
// round trips. It is a cross-check on what the relay counts, and includes the end of the session.
func BenchmarkRoundTrips(b *testing.B) {
	d := harness.StartDemo(b)
	c := harness.NewClient(b)
	c.Login(d, d.Alice())
	near, far := harness.StartRelay(
		b,
		d.Proxy,
		50*time.Millisecond,
	), harness.StartRelay(
		b,
		d.Proxy,
		150*time.Millisecond,
	)
	run := func(r *harness.Relay) time.Duration {
		c.UseRelay(d.Proxy, r.Addr)
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

// startPlainSSHD runs Debian's OpenSSH server on loopback, and returns a client configuration that it lets in
// and its address.
func startPlainSSHD(t *testing.T) (config, addr string) {
	t.Helper()
	dir := t.TempDir()
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v %s", err, out)
		}
	}
	addr = harness.FreeAddr(t, "127.0.0.1")
	if harness.Account(t) == "root" {
		_ = os.MkdirAll("/run/sshd", 0o755) // sshd's own, where it runs as root
	}
	server := fmt.Sprintf(
		"ListenAddress %s\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\nStrictModes no\nPidFile none\nPasswordAuthentication no\nUsePAM no\nPermitRootLogin yes\nUseDNS no\n",
		addr,
		dir,
		dir,
	)
	harness.Start(t, nil, "/usr/sbin/sshd", "-D", "-e", "-f", harness.WriteFile(t, dir, "sshd.conf", server)).
		WaitFor("Server listening")
	client := fmt.Sprintf(
		"User %s\nIdentityFile %s/user\nIdentitiesOnly yes\nBatchMode yes\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n",
		harness.Account(t),
		dir,
	)
	return harness.WriteFile(t, dir, "client.conf", client), addr
}
