//go:build integration

package integration

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// A cluster whose only address is an IPv6 address. It is written in brackets wherever a port follows.
func TestEverythingWorksOverIPv6(t *testing.T) {
	proxy := harness.FreeAddr(t, "::1")
	s := harness.StartServer(t, proxy, harness.StartProvider(t, "::1", proxy), "")
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	node := harness.StartNode(t, proxy, c.Token("node"), "six")
	if !strings.Contains(node.Process.Output(), "address="+proxy) {
		t.Errorf("got %q, want a tunnel to %s", node.Process.Output(), proxy)
	}
	t.Run("tsh", func(t *testing.T) {
		if got := c.Tsh("ssh", "six", "echo", "$SSH_CLIENT").OK(t); !strings.HasPrefix(got, "::1 ") {
			t.Errorf("got the session from %q, want from ::1", got)
		}
		to := filepath.Join(t.TempDir(), "to")
		c.Tsh("scp", harness.WriteFile(t, t.TempDir(), "from", "six"), "six:"+to).OK(t)
		if b, err := os.ReadFile(to); err != nil || string(b) != "six" {
			t.Errorf("got %q, %v, want the file copied", b, err)
		}
		if got := c.Tsh("status", "--proxy", proxy).OK(t); !strings.Contains(got, proxy) {
			t.Errorf("got %q, want %s named", got, proxy)
		}
	})
	conf := harness.WriteFile(t, t.TempDir(), "ssh_config", c.Tsh("config").OK(t))
	host, port, err := net.SplitHostPort(proxy)
	if err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"OpenSSH with ProxyCommand": {harness.Account(t) + "@six." + harness.ClusterName},
		"OpenSSH with -J":           {"-J", "anyone@[" + host + "]:" + port, harness.Account(t) + "@six"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, shell := range []string{"/bin/sh", "/bin/bash"} { // which runs the ProxyCommand
				args := append(append([]string{"-F", conf, "-o", "BatchMode=yes"}, args...), "cat; exit 5")
				r := harness.Run(t, append(c.Env, "SHELL="+shell), strings.NewReader("hello"), "ssh", args...)
				if r.Stdout != "hello" || r.Code != 5 {
					t.Errorf("%s: got %+v, want hello and 5", shell, r)
				}
			}
		})
	}
}

// A listening address without a host, such as the default ":443", accepts IPv4 and IPv6. Users of both keep
// their address.
func TestOnePortServesIPv4AndIPv6(t *testing.T) {
	_, port, err := net.SplitHostPort(harness.FreeAddr(t, "::"))
	if err != nil {
		t.Fatal(err)
	}
	four, six := "127.0.0.1:"+port, "[::1]:"+port
	dir := t.TempDir()
	provider := harness.StartProvider(t, "127.0.0.1", four)
	bootstrap := harness.Bootstrap(t, provider, filepath.Join(dir, "seal.key"))
	public := `public: ["` + four + `", "` + six + `"]`
	s := harness.StartServerFrom(t, dir, ":"+port, bootstrap, "both", public)
	s.Proxy = four
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	if got := c.Tsh("ssh", "both", "echo", "$SSH_CLIENT").OK(t); !strings.HasPrefix(got, "127.0.0.1 ") {
		t.Errorf("got the session from %q, want from 127.0.0.1", got)
	}
	harness.StartNode(t, six, c.Token("node"), "six")
	if got := c.Tsh("ssh", "six", "echo", "in").OK(t); strings.TrimSpace(got) != "in" {
		t.Errorf("got %q, want the command's output from the node that uses IPv6", got)
	}
}
