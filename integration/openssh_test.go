//go:build integration

package integration

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// Users keep OpenSSH. They use the configuration that tsh writes, or a plain jump through the proxy.
func TestStockOpenSSHWorksWithTshConfigAndWithAJumpHost(t *testing.T) {
	d := harness.StartDemo(t)
	c := harness.NewClient(t)
	c.Login(d, d.Alice())
	cfg := harness.WriteFile(t, c.Home, "ssh_config", c.Tsh("config").OK(t))
	target := d.Login + "@" + d.Node + ".demo.threshold.test"
	host, port, err := net.SplitHostPort(d.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	batch := []string{"-F", cfg, "-o", "BatchMode=yes"}
	for name, args := range map[string][]string{
		"tsh config": append(slices.Clone(batch), target),
		"ssh -J":     append(slices.Clone(batch), "-J", "anyone@"+d.Proxy, d.Login+"@"+d.Node),
	} {
		t.Run(name, func(t *testing.T) {
			ssh := func(stdin string, command ...string) harness.Result {
				return harness.Run(t, c.Env, strings.NewReader(stdin), "ssh", append(args, command...)...)
			}
			r := ssh("hello", "cat; echo err >&2; exit 5")
			if r.Stdout != "hello" || !strings.Contains(r.Stderr, "err") || r.Code != 5 {
				t.Errorf("got %+v, want hello, err and 5", r)
			}
			if r := ssh("", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:22", "true"); r.Code != 255 {
				t.Errorf("got %+v, want forwarding refused without a grant", r)
			}
		})
	}
	t.Run("scp and sftp transfer files", func(t *testing.T) {
		dir := t.TempDir()
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		from := filepath.Join(dir, "from")
		if err := os.WriteFile(from, data, 0o600); err != nil {
			t.Fatal(err)
		}
		there, back := target+":"+filepath.Join(dir, "there"), filepath.Join(dir, "back")
		harness.Run(t, c.Env, nil, "scp", append(slices.Clone(batch), from, there)...).OK(t)
		harness.Run(t, c.Env, nil, "scp", append(slices.Clone(batch), "-O", there, back)...).OK(t)
		if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %d bytes, %v, want %d", len(got), err, len(data))
		}
		commands := strings.NewReader("ls " + dir + "\nbye\n")
		r := harness.Run(t, c.Env, commands, "sftp", append(slices.Clone(batch), "-b", "-", target)...)
		if out := r.OK(t); !strings.Contains(out, "there") {
			t.Errorf("got %q, want the file listed", out)
		}
	})
	t.Run("the proxy itself runs no command", func(t *testing.T) {
		args := append(slices.Clone(batch), "-p", port, "anyone@"+host, "id")
		r := harness.Run(t, c.Env, nil, "ssh", args...)
		if r.Code == 0 || strings.Contains(r.Stdout, "uid=") {
			t.Errorf("got %+v, want no command on the proxy", r)
		}
	})
}
