//go:build integration

package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// Users forward ports, sockets and their SSH agent with the flags that OpenSSH has too.
func TestTshForwardsPortsSocketsAndTheAgent(t *testing.T) {
	proxy := harness.FreeAddr(t, "127.0.0.1")
	dir := t.TempDir()
	account := harness.Account(t)
	provider := harness.StartProvider(t, "127.0.0.1", proxy)
	bootstrap := harness.BootstrapFor(provider, filepath.Join(dir, "seal.key"),
		"shell, exec, sftp, forward-local, forward-remote, forward-agent", account)
	s := harness.StartServerFrom(t, dir, proxy, bootstrap, "anvil")
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	node := account + "@anvil"
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "page %s", r.URL.Path)
	}))
	t.Cleanup(site.Close)
	target := site.Listener.Addr().String()
	get := func(t *testing.T, client *http.Client, address string) {
		t.Helper()
		resp, err := client.Get(address + "/one")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, _ := io.ReadAll(resp.Body); string(b) != "page /one" {
			t.Errorf("got %q, want the page", b)
		}
	}

	t.Run("-L and -D forward a port and a socket to the node's side", func(t *testing.T) {
		port, socks := harness.FreeAddr(t, "127.0.0.1"), harness.FreeAddr(t, "127.0.0.1")
		sock := filepath.Join(t.TempDir(), "s")
		cmd := c.Command("ssh", "-N", "-v", "-L", port+":"+target, "-L", sock+":"+target, "-D", socks, node)
		p := harness.StartCmd(t, cmd)
		p.WaitFor("tsh: connected")
		get(t, http.DefaultClient, "http://"+port)
		viaSOCKS := http.ProxyURL(&url.URL{Scheme: "socks5h", Host: socks})
		get(t, &http.Client{Transport: &http.Transport{Proxy: viaSOCKS}}, site.URL)
		conn, err := net.Dial("unix", sock)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET /two HTTP/1.0\r\n\r\n")
		if b, _ := io.ReadAll(conn); !strings.Contains(string(b), "page /two") {
			t.Errorf("got %q, want the page through the socket", b)
		}
		if err := p.Stop(); exitCode(err) != 128+int(syscall.SIGINT) {
			t.Errorf("got %v, want the status of an end by Ctrl-C", err)
		}
	})
	t.Run("-R forwards a port that the node chooses", func(t *testing.T) {
		p := harness.StartCmd(t, c.Command("ssh", "-N", "-R", "0:"+target, node))
		port, _, _ := strings.Cut(p.Line("tsh: port "), " ")
		get(t, http.DefaultClient, "http://127.0.0.1:"+port)
	})
	t.Run("-W connects input and output to a port", func(t *testing.T) {
		request := strings.NewReader("GET /three HTTP/1.0\r\n\r\n")
		r := harness.Run(t, c.Env, request, c.Path(), "ssh", "-W", target, node)
		if !strings.Contains(r.OK(t), "page /three") {
			t.Errorf("got %+v, want the page", r)
		}
	})
	t.Run("-A forwards the keys that are not bound to destinations, and no others", func(t *testing.T) {
		env := agentWithFreeKey(t, c)
		r := harness.Run(t, env, nil, c.Path(), "ssh", "-A", node, "ssh-add -l")
		if !strings.Contains(r.OK(t), "free-key") || strings.Contains(r.Stdout, "bound-key") {
			t.Errorf("got %+v, want the free key only", r)
		}
		if here := harness.Run(t, env, nil, "ssh-add", "-l").OK(t); !strings.Contains(here, "bound-key") {
			t.Errorf("got %q, want both keys in the local agent", here)
		}
		if r := harness.Run(t, env, nil, c.Path(), "ssh", node, "ssh-add -l"); r.Code == 0 {
			t.Errorf("got %+v, want no agent without -A", r)
		}
	})
	t.Run("what cannot be forwarded is refused with the reason", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		_, port, _ := net.SplitHostPort(taken.Addr().String())
		r := c.Tsh("ssh", "-R", port+":"+target, node, "true")
		r.Refused(t, "the node does not listen on localhost:"+port, "in use")
		c.Tsh("ssh", "-L", port+":"+target, node, "true").Refused(t, "cannot listen on", "in use")
		c.Tsh("ssh", "-W", "169.254.169.254:80", node).Refused(t, "link-local")
		c.Tsh("ssh", "-W", harness.FreeAddr(t, "127.0.0.1"), node).Refused(t, "connection refused")
		if r = c.Tsh("ssh", "-X", node); r.Code != 255 || !strings.Contains(r.Stderr, "X11") {
			t.Errorf("got %+v, want X11 forwarding refused", r)
		}
	})
	t.Run("forwarding without the action is refused with the reason", func(t *testing.T) {
		role := c.Tsh("get", "role", "operator", "--format=yaml").OK(t)
		drop := strings.NewReplacer("forward-local", "list", "forward-remote", "list",
			"forward-agent", "list")
		harness.Run(t, c.Env, strings.NewReader(drop.Replace(role)), c.Path(), "apply", "-f", "-").OK(t)
		harness.Eventually(t, "the node applies the new role", func() bool {
			return c.Tsh("ssh", "-W", target, node).Code != 0
		})
		c.Tsh("ssh", "-W", target, node).Refused(t, "forward-local")
		c.Tsh("ssh", "-R", "0:"+target, node, "true").Refused(t, "forward-remote")
		env := agentWithFreeKey(t, c)
		r := harness.Run(t, env, nil, c.Path(), "ssh", "-A", node, "ssh-add -l; echo ran")
		if !strings.Contains(r.Stderr, "forward-agent") || !strings.Contains(r.Stdout, "ran") {
			t.Errorf("got %+v, want the command run, and the reason why there is no agent", r)
		}
	})
}

func exitCode(err error) int {
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	return 0
}

// agentWithFreeKey runs OpenSSH's agent with two keys: a free one, and one that is bound to destinations,
// as tsh login adds its own. It returns the environment with this agent.
func agentWithFreeKey(t *testing.T, c *harness.Client) []string {
	t.Helper()
	dir := t.TempDir()
	sock := filepath.Join(dir, "agent")
	cmd := exec.Command("ssh-agent", "-D", "-a", sock)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // its first line says that it listens
		t.Fatal(err)
	}
	env := append(slices.Clone(c.Env), "SSH_AUTH_SOCK="+sock)
	key := filepath.Join(dir, "key")
	harness.Run(t, env, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "free-key", "-f", key).OK(t)
	harness.Run(t, env, nil, "ssh-add", "-q", key).OK(t)
	bound := filepath.Join(dir, "bound")
	generate := []string{"-q", "-t", "ed25519", "-N", "", "-C", "bound-key", "-f", bound}
	harness.Run(t, env, nil, "ssh-keygen", generate...).OK(t)
	pub, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	hosts := harness.WriteFile(t, dir, "hosts", "anvil "+string(pub))
	harness.Run(t, env, nil, "ssh-add", "-q", "-H", hosts, "-h", "anvil", bound).OK(t)
	return env
}
