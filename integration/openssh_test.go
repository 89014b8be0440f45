//go:build integration

package integration

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// People keep their OpenSSH: by the configuration that tsh writes, and by a plain jump through the proxy.
func TestStockOpenSSHWorksBothWays(t *testing.T) {
	d := harness.StartDemo(t)
	c := harness.NewClient(t)
	c.Login(d, d.Alice())
	cfg := filepath.Join(c.Home, "ssh_config")
	if err := os.WriteFile(cfg, []byte(c.Tsh("config").OK(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	target := d.Login + "@" + d.Node + ".demo.threshold.test"
	host, port, err := net.SplitHostPort(d.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	ways := map[string][]string{
		"tsh config": {"-F", cfg, "-o", "BatchMode=yes", target},
		"ssh -J": {
			"-F",
			cfg,
			"-o",
			"BatchMode=yes",
			"-J",
			"anyone@" + net.JoinHostPort(host, port),
			d.Login + "@" + d.Node,
		},
	}
	for name, args := range ways {
		t.Run(name, func(t *testing.T) {
			ssh := func(stdin string, command ...string) harness.Result {
				return harness.Run(t, c.Env, strings.NewReader(stdin), "ssh", append(args, command...)...)
			}
			r := ssh("hello", "cat; echo err >&2; exit 5")
			if r.Stdout != "hello" || !strings.Contains(r.Stderr, "err") || r.Code != 5 {
				t.Errorf("got %+v, want hello, err and 5", r)
			}
			if r := ssh("", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:22", "true"); r.Code != 255 {
				t.Errorf("got %+v, want forwarding without a grant refused", r)
			}
		})
	}
	t.Run("scp and sftp of OpenSSH", func(t *testing.T) {
		dir := t.TempDir()
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		from := filepath.Join(dir, "from")
		if err := os.WriteFile(from, data, 0o600); err != nil {
			t.Fatal(err)
		}
		harness.Run(t, c.Env, nil, "scp", "-F", cfg, "-o", "BatchMode=yes", from, target+":"+filepath.Join(dir, "there")).
			OK(t)
		harness.Run(t, c.Env, nil, "scp", "-O", "-F", cfg, "-o", "BatchMode=yes", target+":"+filepath.Join(dir, "there"), filepath.Join(dir, "back")).
			OK(t)
		if got, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %d bytes, %v, want %d", len(got), err, len(data))
		}
		batch := "ls " + dir + "\nbye\n"
		r := harness.Run(
			t,
			c.Env,
			strings.NewReader(batch),
			"sftp",
			"-F",
			cfg,
			"-o",
			"BatchMode=yes",
			"-b",
			"-",
			target,
		)
		if out := r.OK(t); !strings.Contains(out, "there") {
			t.Errorf("got %q, want the file listed", out)
		}
	})
	t.Run("the proxy's own front offers nothing but the way to a node", func(t *testing.T) {
		front := []string{"-F", cfg, "-o", "BatchMode=yes", "-p", port, "anyone@" + host}
		if r := harness.Run(t, c.Env, nil, "ssh", append(front, "id")...); r.Code == 0 ||
			strings.Contains(r.Stdout, "uid=") {
			t.Errorf("got %+v, want no command on the proxy", r)
		}
	})
}
