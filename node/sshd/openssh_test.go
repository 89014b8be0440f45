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
func writeOpenSSHConfig(t *testing.T, r *fixture) string {
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
	cert := r.cluster.UserCert(plain, r.cluster.User("alice@example.com", "ops"), nil, testAccount())
	host, port, err := net.SplitHostPort(r.addr)
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
		"@cert-authority web-1 "+string(ssh.MarshalAuthorizedKey(r.cluster.HostAuthority())),
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
  ControlPath %s
`, host, port, testAccount(), keyFile, known, filepath.Join(dir, "mux")))
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

func TestStockOpenSSH(t *testing.T) {
	t.Parallel()
	r := newFixture(t, nil)
	config := writeOpenSSHConfig(t, r)
	data := make([]byte, 2<<20)
	_, _ = rand.Read(data)
	t.Run("a command", func(t *testing.T) {
		got := runOpenSSH(t, []byte("in"), "ssh", "-F", config, "web-1", "cat; echo err >&2; exit 7")
		if got.out != "in" || got.err != "err\n" || got.status != 7 {
			t.Errorf("got %+v, want in, err and 7", got)
		}
	})
	t.Run("a terminal", func(t *testing.T) {
		got := runOpenSSH(t, nil, "ssh", "-tt", "-F", config, "web-1", "tty; exit 3")
		if !strings.HasPrefix(got.out, "/dev/pts/") || got.status != 3 {
			t.Errorf("got %+v, want a terminal's name and 3", got)
		}
	})
	t.Run("death by signal", func(t *testing.T) {
		if got := runOpenSSH(t, nil, "ssh", "-F", config, "web-1", "kill -9 $$"); got.status != 255 {
			t.Errorf("got %+v, want ssh's 255 for a signal", got)
		}
	})
	t.Run("2 MB through stdin and stdout", func(t *testing.T) {
		if got := runOpenSSH(t, data, "ssh", "-F", config, "web-1", "cat"); got.out != string(data) {
			t.Errorf("got %d bytes, want the same %d", len(got.out), len(data))
		}
	})
	for _, mode := range []string{"-s", "-O"} {
		t.Run("scp "+mode, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "a"), data, 0o640); err != nil {
				t.Fatal(err)
			}
			if got := runOpenSSH(
				t,
				nil,
				"scp",
				mode,
				"-p",
				"-F",
				config,
				filepath.Join(dir, "a"),
				"web-1:"+filepath.Join(dir, "b"),
			); got.status != 0 {
				t.Fatalf("put: got %+v", got)
			}
			if got := runOpenSSH(
				t,
				nil,
				"scp",
				mode,
				"-F",
				config,
				"web-1:"+filepath.Join(dir, "b"),
				filepath.Join(dir, "c"),
			); got.status != 0 {
				t.Fatalf("get: got %+v", got)
			}
			if c, err := os.ReadFile(filepath.Join(dir, "c")); err != nil || !bytes.Equal(c, data) {
				t.Errorf("got %d bytes back (%v), want the same %d", len(c), err, len(data))
			}
		})
	}
	t.Run("sftp", func(t *testing.T) {
		if got := runOpenSSH(
			t,
			[]byte("pwd\nls /\n"),
			"sftp",
			"-b",
			"-",
			"-F",
			config,
			"web-1",
		); got.status != 0 ||
			!strings.Contains(got.out, "/etc") {
			t.Errorf("got %+v, want a listing", got)
		}
	})
	t.Run("a master connection", func(t *testing.T) {
		master := exec.Command("ssh", "-M", "-N", "-F", config, "web-1")
		if err := master.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(
			t,
			"the master is up",
			func() bool {
				return runOpenSSH(
					t,
					nil,
					"ssh",
					"-O",
					"check",
					"-F",
					config,
					"web-1",
				).status == 0
			},
		)
		for i := range 3 {
			if got := runOpenSSH(
				t,
				nil,
				"ssh",
				"-F",
				config,
				"web-1",
				fmt.Sprintf("exit %d", i),
			); got.status != i {
				t.Errorf("got %+v, want status %d", got, i)
			}
		}
		runOpenSSH(t, nil, "ssh", "-O", "exit", "-F", config, "web-1")
		_ = master.Wait()
	})
	t.Run("a refused command says why", func(t *testing.T) {
		r.allow(fullRole("ops", "sftp"))
		got := runOpenSSH(t, nil, "ssh", "-F", config, "web-1", "true")
		if got.status != 126 ||
			!strings.Contains(
				got.err,
				"threshold: error: no role of alice@example.com (roles: ops) allows exec as ",
			) ||
			!strings.Contains(got.err, "threshold: hint: ") {
			t.Errorf("got %+v, want 126 and the reason", got)
		}
	})
	t.Run("a refused login says why", func(t *testing.T) {
		r.allow()
		got := runOpenSSH(t, nil, "ssh", "-F", config, "web-1", "true")
		if got.status != 255 || !strings.Contains(got.err, "threshold: error: no role of alice@example.com") {
			t.Errorf("got %+v, want 255 and the reason", got)
		}
	})
}
