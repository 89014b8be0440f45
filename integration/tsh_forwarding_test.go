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
	"strings"
	"syscall"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// People reach what the node reaches, and let the node reach them, with the flags that their fingers know.
func TestTshForwardsPortsSocketsAndTheAgent(t *testing.T) {
	proxy := harness.FreeAddr(t, "127.0.0.1")
	dir := t.TempDir()
	account := harness.Account(t)
	birth := harness.BootstrapFor(
		harness.StartProvider(t, "127.0.0.1", proxy),
		filepath.Join(dir, "seal.key"),
		"shell, exec, sftp, forward-local, forward-remote, forward-agent",
		account,
	)
	s := harness.StartServerFrom(t, dir, proxy, birth, "anvil")
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	node := account + "@anvil"
	site := httptest.NewServer(
		http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "page %s", r.URL.Path) },
		),
	)
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

	t.Run("-L and -D, from a port and a socket", func(t *testing.T) {
		port, socks, sock := harness.FreeAddr(
			t,
			"127.0.0.1",
		), harness.FreeAddr(
			t,
			"127.0.0.1",
		), filepath.Join(
			t.TempDir(),
			"s",
		)
		p := harness.StartCmd(
			t,
			c.Command("ssh", "-N", "-v", "-L", port+":"+target, "-L", sock+":"+target, "-D", socks, node),
		)
		p.WaitFor("tsh: connected")
		get(t, http.DefaultClient, "http://"+port)
		get(
			t,
			&http.Client{
				Transport: &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5h", Host: socks})},
			},
			site.URL,
		)
		conn, err := net.Dial("unix", sock)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET /two HTTP/1.0\r\n\r\n")
		if b, _ := io.ReadAll(conn); !strings.Contains(string(b), "page /two") {
			t.Errorf("got %q, want the page by the socket", b)
		}
		if err := p.Stop(); exitCode(err) != 128+int(syscall.SIGINT) {
			t.Errorf("got %v, want the end by Ctrl-C", err)
		}
	})
	t.Run("-R, to a port that the node chooses", func(t *testing.T) {
		p := harness.StartCmd(t, c.Command("ssh", "-N", "-R", "0:"+target, node))
		port, _, _ := strings.Cut(p.Line("tsh: port "), " ")
		get(t, http.DefaultClient, "http://127.0.0.1:"+port)
	})
	t.Run("-W", func(t *testing.T) {
		r := harness.Run(
			t,
			c.Env,
			strings.NewReader("GET /three HTTP/1.0\r\n\r\n"),
			c.Path(),
			"ssh",
			"-W",
			target,
			node,
		)
		if !strings.Contains(r.OK(t), "page /three") {
			t.Errorf("got %+v, want the page", r)
		}
	})
	t.Run("-A shows the keys that may go onward, and no others", func(t *testing.T) {
		env := agentWithAFreeKey(t, c)
		r := harness.Run(t, env, nil, c.Path(), "ssh", "-A", node, "ssh-add -l")
		if !strings.Contains(r.OK(t), "free-key") || strings.Contains(r.Stdout, "bound-key") {
			t.Errorf("got %+v, want the free key, and not the one that is bound to its destinations", r)
		}
		if here := harness.Run(t, env, nil, "ssh-add", "-l").OK(t); !strings.Contains(here, "bound-key") {
			t.Errorf("got %q, want both keys in the agent here", here)
		}
		if r := harness.Run(t, env, nil, c.Path(), "ssh", node, "ssh-add -l"); r.Code == 0 {
			t.Errorf("got %+v, want no agent without -A", r)
		}
	})
	t.Run("what cannot be forwarded is told, with the reason", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		_, port, _ := net.SplitHostPort(taken.Addr().String())
		c.Tsh("ssh", "-R", port+":"+target, node, "true").
			Refused(t, "the node does not listen on localhost:"+port, "in use")
		c.Tsh("ssh", "-L", port+":"+target, node, "true").
			Refused(t, "cannot listen on", "in use")
		c.Tsh("ssh", "-W", "169.254.169.254:80", node).Refused(t, "link-local")
		c.Tsh("ssh", "-W", harness.FreeAddr(t, "127.0.0.1"), node).Refused(t, "connection refused")
		if r := c.Tsh("ssh", "-X", node); r.Code != 255 || !strings.Contains(r.Stderr, "X11") {
			t.Errorf("got %+v, want windows refused in words", r)
		}
	})
	t.Run("without the grant nothing is forwarded, with the reason", func(t *testing.T) {
		role := c.Tsh("get", "role", "operator", "--format=yaml").OK(t)
		harness.Run(t, c.Env, strings.NewReader(strings.NewReplacer("forward-local", "list", "forward-remote", "list", "forward-agent", "list").Replace(role)), c.Path(), "apply", "-f", "-").
			OK(t)
		harness.Eventually(
			t,
			"the node heeds the new role",
			func() bool { return c.Tsh("ssh", "-W", target, node).Code != 0 },
		)
		c.Tsh("ssh", "-W", target, node).Refused(t, "forward-local")
		c.Tsh("ssh", "-R", "0:"+target, node, "true").Refused(t, "forward-remote")
		r := harness.Run(t, agentWithAFreeKey(t, c), nil, c.Path(), "ssh", "-A", node, "ssh-add -l; echo ran")
		if !strings.Contains(r.Stderr, "forward-agent") || !strings.Contains(r.Stdout, "ran") {
			t.Errorf("got %+v, want the command run, and the reason why it has no agent", r)
		}
	})
}

func exitCode(err error) int {
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	return 0
}

// agentWithAFreeKey runs OpenSSH's agent with a key that may be used anywhere and, as tsh login loads its
// own, one that is bound to its destinations. It returns the person's environment.
func agentWithAFreeKey(t *testing.T, c *harness.Client) []string {
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
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // it says where it listens
		t.Fatal(err)
	}
	env := append(append([]string(nil), c.Env...), "SSH_AUTH_SOCK="+sock)
	key := filepath.Join(dir, "key")
	harness.Run(t, env, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "free-key", "-f", key).OK(t)
	harness.Run(t, env, nil, "ssh-add", "-q", key).OK(t)
	bound := filepath.Join(dir, "bound")
	harness.Run(t, env, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bound-key", "-f", bound).
		OK(t)
	hosts := filepath.Join(dir, "hosts")
	pub, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	harness.WriteFile(t, dir, "hosts", "anvil "+string(pub))
	harness.Run(t, env, nil, "ssh-add", "-q", "-H", hosts, "-h", "anvil", bound).OK(t)
	return env
}
