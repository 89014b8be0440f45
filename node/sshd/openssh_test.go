package sshd_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// writeOpenSSHConfig writes a key, a certificate and a configuration for the real clients, and returns the
// configuration's path.
func writeOpenSSHConfig(t *testing.T, f *fixture) string {
	t.Helper()
	dir := t.TempDir()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	cert := f.cluster.UserCert(plain, f.cluster.User("alice@example.com", "ops"), nil, testAccount())
	host, port, err := net.SplitHostPort(f.addr)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keyFile := put("key", string(pem.EncodeToMemory(block)))
	put("key-cert.pub", string(ssh.MarshalAuthorizedKey(cert)))
	known := put(
		"known_hosts",
		"@cert-authority web-1 "+string(ssh.MarshalAuthorizedKey(f.cluster.HostAuthority())),
	)
	return put("config", fmt.Sprintf(`Host web-1
  HostName %s
  HostKeyAlias web-1
  Port %s
  User %s
  IdentityFile %s
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile %s
  StrictHostKeyChecking yes
  BatchMode yes
`, host, port, testAccount(), keyFile, known))
}

// runOpenSSH runs one of OpenSSH's programs.
func runOpenSSH(t *testing.T, stdin []byte, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatalf("%s: %v", name, err)
	}
	return result{out: out.String(), err: errs.String(), status: cmd.ProcessState.ExitCode()}
}

// The real ssh, scp and sftp use the server, and show its refusals to their user.
func TestStockOpenSSH(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	config := writeOpenSSHConfig(t, f)
	data := make([]byte, 2<<20)
	_, _ = rand.Read(data)
	runSSH := func(t *testing.T, stdin []byte, args ...string) result {
		t.Helper()
		return runOpenSSH(t, stdin, "ssh", append([]string{"-F", config}, args...)...)
	}
	copyFile := func(t *testing.T, args ...string) {
		t.Helper()
		if got := runOpenSSH(t, nil, "scp", append([]string{"-F", config}, args...)...); got.status != 0 {
			t.Fatalf("scp %q: got %+v", args, got)
		}
	}
	t.Run("a command", func(t *testing.T) {
		got := runSSH(t, []byte("in"), "web-1", "cat; echo err >&2; exit 7")
		if got.out != "in" || got.err != "err\n" || got.status != 7 {
			t.Errorf("got %+v, want in, err and 7", got)
		}
	})
	t.Run("a terminal", func(t *testing.T) {
		got := runSSH(t, nil, "-tt", "web-1", "tty; exit 3")
		if !strings.HasPrefix(got.out, "/dev/pts/") || got.status != 3 {
			t.Errorf("got %+v, want a terminal's name and 3", got)
		}
	})
	t.Run("death by signal", func(t *testing.T) {
		if got := runSSH(t, nil, "web-1", "kill -9 $$"); got.status != 255 {
			t.Errorf("got %+v, want ssh's 255 for a signal", got)
		}
	})
	t.Run("2 MB through stdin and stdout", func(t *testing.T) {
		if got := runSSH(t, data, "web-1", "cat"); got.out != string(data) {
			t.Errorf("got %d bytes, want the same %d", len(got.out), len(data))
		}
	})
	for _, mode := range []string{"-s", "-O"} {
		t.Run("scp "+mode, func(t *testing.T) {
			dir := t.TempDir()
			from, back := filepath.Join(dir, "a"), filepath.Join(dir, "c")
			remote := "web-1:" + filepath.Join(dir, "b")
			if err := os.WriteFile(from, data, 0o640); err != nil {
				t.Fatal(err)
			}
			copyFile(t, mode, "-p", from, remote)
			copyFile(t, mode, remote, back)
			if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, data) {
				t.Errorf("got %d bytes back (%v), want the same %d", len(got), err, len(data))
			}
		})
	}
	t.Run("sftp", func(t *testing.T) {
		got := runOpenSSH(t, []byte("pwd\nls /\n"), "sftp", "-b", "-", "-F", config, "web-1")
		if got.status != 0 || !strings.Contains(got.out, "/etc") {
			t.Errorf("got %+v, want a listing", got)
		}
	})
	t.Run("a master connection", func(t *testing.T) {
		control := filepath.Join(filepath.Dir(config), "control")
		// With -f ssh returns when the master is up, and leaves it in the background.
		if got := runSSH(t, nil, "-S", control, "-f", "-M", "-N", "web-1"); got.status != 0 {
			t.Fatalf("got %+v, want a master connection", got)
		}
		for i := range 3 {
			if got := runSSH(t, nil, "-S", control, "web-1", fmt.Sprintf("exit %d", i)); got.status != i {
				t.Errorf("got %+v, want status %d", got, i)
			}
		}
		if got := runSSH(t, nil, "-S", control, "-O", "exit", "web-1"); got.status != 0 {
			t.Errorf("got %+v, want the master to exit", got)
		}
	})
	t.Run("a refused command says why", func(t *testing.T) {
		f.allow(fullRole("ops", "sftp"))
		got := runSSH(t, nil, "web-1", "true")
		const reason = "threshold: error: no role of alice@example.com (roles: ops) allows exec as "
		if got.status != 126 || !strings.Contains(got.err, reason) ||
			!strings.Contains(got.err, "threshold: hint: ") {
			t.Errorf("got %+v, want 126 and the reason", got)
		}
	})
	t.Run("a refused login says why", func(t *testing.T) {
		f.allow()
		got := runSSH(t, nil, "web-1", "true")
		if got.status != 255 || !strings.Contains(got.err, "threshold: error: no role of alice@example.com") {
			t.Errorf("got %+v, want 255 and the reason", got)
		}
	})
}

// OpenSSH's own test "forwarding" chains nine -L and -R options: each local listener leads to a remote one,
// and that back to the local listener before. It is not parallel: another test might listen on one of the
// ports.
func TestAChainOfForwardsWithStockOpenSSH(t *testing.T) {
	config := writeOpenSSHConfig(t, newFixture(t, nil))
	for round := range 5 {
		ports := freePorts(t, 18)
		control := filepath.Join(filepath.Dir(config), fmt.Sprintf("control-%d", round))
		// With -f and ExitOnForwardFailure ssh returns when all its ports listen and all those of the node,
		// and stays in the background. With -M it can be told to exit.
		args := []string{"-F", config, "-S", control, "-f", "-M", "-N", "-o", "ExitOnForwardFailure=yes"}
		last := startEcho(t, "tcp").(*net.TCPAddr).Port
		for i := 0; i < len(ports); i += 2 {
			local, remote := ports[i], ports[i+1]
			args = append(args,
				"-L", fmt.Sprintf("%d:127.0.0.1:%d", local, remote),
				"-R", fmt.Sprintf("%d:127.0.0.1:%d", remote, last))
			last = local
		}
		if got := runOpenSSH(t, nil, "ssh", append(args, "web-1")...); got.status != 0 {
			t.Fatalf("round %d: got %+v, want every forward to listen", round, got)
		}
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", last))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		wantEcho(t, conn.(*net.TCPConn), "through the whole chain")
		conn.Close()
		if got := runOpenSSH(t, nil, "ssh", "-S", control, "-O", "exit", "web-1"); got.status != 0 {
			t.Fatalf("round %d: got %+v, want ssh to exit", round, got)
		}
	}
}

// freePorts returns ports of the loopback address on which nothing listens.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		ports[i] = ln.Addr().(*net.TCPAddr).Port
	}
	return ports
}
