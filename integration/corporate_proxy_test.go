//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// corporateNetwork is a network namespace from which only a real HTTP proxy with a password leads out. The
// HTTP proxy runs in a second namespace, the gateway.
type corporateNetwork struct {
	t         *testing.T
	name      string // of the namespace
	httpProxy string // host:port
	Host      string // address of this machine for the gateway; the network cannot reach it
}

const (
	corporateUser     = "clerk"
	corporatePassword = "corporate-secret"
)

// newCorporateNetwork makes two namespaces: the gateway, which is connected to this machine, and the
// network, which is connected to the gateway only. The gateway forwards no packets, and the network has no
// default route.
func newCorporateNetwork(t *testing.T) *corporateNetwork {
	t.Helper()
	host, gateway := namespace(t)
	id := os.Getpid() % 10000
	o := &corporateNetwork{t: t, Host: host, name: fmt.Sprintf("thc%d", id)}
	harness.AsRoot(t, "ip", "netns", "add", o.name)
	t.Cleanup(func() { harness.AsRoot(t, "ip", "netns", "del", o.name) })
	ip := func(command string) {
		t.Helper()
		harness.AsRoot(t, append([]string{"ip"}, strings.Fields(command)...)...)
	}
	ip("-n " + gateway + " link add inside type veth peer name outside netns " + o.name)
	ip("-n " + gateway + " addr add 192.0.2.1/30 dev inside")
	ip("-n " + gateway + " link set inside up")
	ip("netns exec " + gateway + " sysctl -qw net.ipv4.ip_forward=0")
	ip("-n " + o.name + " addr add 192.0.2.2/30 dev outside")
	ip("-n " + o.name + " link set outside up")
	ip("-n " + o.name + " link set lo up")

	o.httpProxy = "192.0.2.1:8888"
	conf := harness.WriteFile(t, t.TempDir(), "tinyproxy.conf", fmt.Sprintf(`Port 8888
Listen 192.0.2.1
Timeout 600
MaxClients 50
LogLevel Info
BasicAuth %s %s
`, corporateUser, corporatePassword))
	p := harness.Start(t, nil, "ip", "netns", "exec", gateway, "tinyproxy", "-d", "-c", conf)
	p.WaitFor("Accepting connections")
	return o
}

// proxy is the URL of the HTTP proxy. Without a user it has no password.
func (o *corporateNetwork) proxy(user, password string) string {
	if user == "" {
		return "http://" + o.httpProxy
	}
	return fmt.Sprintf("http://%s:%s@%s", user, password, o.httpProxy)
}

// insideCommand is the command that runs args inside the network.
func (o *corporateNetwork) insideCommand(args ...string) []string {
	return append([]string{"ip", "netns", "exec", o.name}, args...)
}

// run runs a command inside the network.
func (o *corporateNetwork) run(env []string, args ...string) harness.Result {
	o.t.Helper()
	args = o.insideCommand(args...)
	return harness.Run(o.t, env, nil, args[0], args[1:]...)
}

// A corporate network lets connections out only through its HTTP proxy. Nodes join and users log in and
// work from inside it.
func TestUsersAndNodesWorkBehindACorporateProxy(t *testing.T) {
	o := newCorporateNetwork(t)
	proxy := harness.FreeAddr(t, o.Host)
	s := harness.StartServer(t, proxy, harness.StartProvider(t, "127.0.0.1", proxy), "")
	admin := harness.NewClient(t)
	alice := admin.FirstLogin(s, harness.Alice())
	token := admin.Token("node")
	good := "HTTPS_PROXY=" + o.proxy(corporateUser, corporatePassword)
	clerk := harness.NewClient(t)
	httpProxy := "HTTP_PROXY=" + o.proxy(corporateUser, corporatePassword)
	clerk.Env = append(clerk.Env, "HTTPS_PROXY=", "https_proxy=", httpProxy, "NO_PROXY=", "no_proxy=")
	pin := pinOf(t, admin)
	login := []string{clerk.Path(), "login", "--headless", "--proxy", proxy, "--pin", pin}
	// nodeConfig writes the configuration of a node that uses the HTTP proxy at url.
	nodeConfig := func(t *testing.T, url string) string {
		t.Helper()
		data := filepath.Join(t.TempDir(), "data")
		tokenFile := harness.WriteFile(t, t.TempDir(), "token", token)
		const spec = "{proxies: [%q], https_proxy: %q, data: %q, token_file: %q, name: branch}"
		text := "kind: node\nversion: v1\nspec: " + fmt.Sprintf(spec, proxy, url, data, tokenFile) + "\n"
		return harness.WriteFile(t, t.TempDir(), "node.yaml", text)
	}

	t.Run("without HTTPS_PROXY the server cannot be reached, and HTTP_PROXY is not used", func(t *testing.T) {
		o.run(clerk.Env, login...).Refused(t, proxy+" cannot be reached")
	})
	t.Run("a missing or wrong password is reported", func(t *testing.T) {
		for url, says := range map[string]string{
			o.proxy("", ""):                 "the HTTP proxy at " + o.httpProxy + " wants a password",
			o.proxy(corporateUser, "guess"): `does not accept the password for "clerk"`,
		} {
			r := o.run(append(clerk.Env, "HTTPS_PROXY="+url), login...)
			r.Refused(t, says)
			if strings.Contains(r.Stderr, "guess") {
				t.Errorf("got %q, want no password in it", r.Stderr)
			}
			r = o.run(nil, harness.Bin(t, "threshold-node"), "--config", nodeConfig(t, url))
			if r.Code != 1 || strings.Contains(r.Stderr, "guess") {
				t.Errorf("got %+v, want exit status 1 and no password", r)
			}
			contains(t, r.Stderr, says, "threshold-node: hint: ")
		}
	})

	cfg := nodeConfig(t, o.proxy(corporateUser, corporatePassword))
	agent := o.insideCommand(harness.Bin(t, "threshold-node"), "--config", cfg)
	node := harness.Start(t, nil, agent[0], agent[1:]...)
	node.WaitFor("tunnel connected")
	if strings.Contains(node.Output(), corporatePassword) {
		t.Error("got the HTTP proxy's password in the agent's log")
	}
	clerk.Env = append(clerk.Env, good)
	approveHeadless(t, s, alice, clerk, o.insideCommand(login...))

	tsh := func(args ...string) harness.Result {
		t.Helper()
		return o.run(clerk.Env, append([]string{clerk.Path()}, args...)...)
	}
	t.Run("tsh ssh and scp", func(t *testing.T) {
		if got := tsh("ls", "-q").OK(t); strings.TrimSpace(got) != "branch" {
			t.Errorf("got nodes %q, want the one inside the network", got)
		}
		if got := tsh("ssh", "branch", "hostname -I").OK(t); strings.TrimSpace(got) != "192.0.2.2" {
			t.Errorf("got a session at %q, want it on the node inside the network", got)
		}
		dir := t.TempDir()
		from := harness.WriteFile(t, dir, "from", strings.Repeat("0123456789abcdef", 1<<16))
		to := filepath.Join(dir, "to")
		tsh("scp", from, "branch:"+to).OK(t)
		if got, err := os.ReadFile(to); err != nil || len(got) != 1<<20 {
			t.Errorf("got %d bytes, %v, want 1 MiB", len(got), err)
		}
	})
	t.Run("OpenSSH with the configuration that tsh prints", func(t *testing.T) {
		conf := harness.WriteFile(t, t.TempDir(), "ssh_config", tsh("config").OK(t))
		target := harness.Account(t) + "@branch." + harness.ClusterName
		r := o.run(clerk.Env, "ssh", "-F", conf, "-o", "BatchMode=yes", target, "echo from inside")
		if got := r.OK(t); strings.TrimSpace(got) != "from inside" {
			t.Errorf("got %q, want the command's output", got)
		}
	})
	t.Run("NO_PROXY is respected", func(t *testing.T) {
		host, _, _ := net.SplitHostPort(proxy)
		o.run(append(clerk.Env, "NO_PROXY="+host), clerk.Path(), "ls").Refused(t, "cannot be reached")
		missing := "HTTPS_PROXY=http://" + harness.FreeAddr(t, "127.0.0.1")
		r := harness.Run(t, append(admin.Env, missing, "NO_PROXY="+host), nil, admin.Path(), "ls", "-q")
		if got := r.OK(t); strings.TrimSpace(got) != "branch" {
			t.Errorf("got %q with an HTTP proxy that does not exist, want it not used", got)
		}
	})
	t.Run("a proxy that expects WebSockets", func(t *testing.T) {
		second, dir := harness.FreeAddr(t, o.Host), t.TempDir()
		conf := fmt.Sprintf(`kind: server
version: v1
spec:
  data: %q
  proxy:
    listen: %q
    public: [%q]
    auth: %q
    token_file: %q
    name: proxy-2
    transport: websocket
`, filepath.Join(dir, "data"), second, second, s.AuthAddr(t),
			harness.WriteFile(t, dir, "token", admin.Token("proxy", "--public-name", o.Host)))
		file := harness.WriteFile(t, dir, "threshold.yaml", conf)
		p := harness.Start(t, nil, harness.Bin(t, "threshold"), "start", "--config", file)
		p.WaitFor("msg=ready")
		agent := o.insideCommand(
			harness.Bin(t, "threshold-node"),
			"--proxy",
			second,
			"--name",
			"branch-2",
			"--https-proxy",
			o.proxy(corporateUser, corporatePassword),
			"--data",
			filepath.Join(dir, "node"),
			"--token-file",
			harness.WriteFile(t, dir, "node-token", admin.Token("node")),
		)
		n := harness.Start(t, nil, agent[0], agent[1:]...)
		n.WaitFor("tunnel connected")
		if !strings.Contains(n.Output(), "password of the HTTP proxy is on the command line") {
			t.Errorf("got %q, want a warning about the password in the list of processes", n.Output())
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		inside, auth, tunnels := counted(t, p, "websocket"), counted(t, p, "auth"), counted(t, p, "tunnel")
		// The stop may have closed a connection inside a WebSocket before it said what it was.
		if auth < 1 || tunnels < 1 || inside < auth+tunnels {
			const format = "got %d connections inside WebSockets, want the %d to auth and the %d tunnels"
			t.Errorf(format, inside, auth, tunnels)
		}
		accepted, web := counted(t, p, "accepted"), counted(t, p, "web")+counted(t, p, "refused")
		if accepted > web {
			t.Errorf("got %d connections of which %d were for the web, want no other", accepted, web)
		}
	})
	t.Run("the error of the HTTP proxy is reported", func(t *testing.T) {
		env := append(clerk.Env, "HTTPS_PROXY=http://"+o.httpProxy+"/", good)
		args := []string{clerk.Path(), "login", "--proxy", "nowhere.invalid:443", "--headless", "--pin", pin}
		r := o.run(env, args...)
		r.Refused(t, "the HTTP proxy at "+o.httpProxy, "nowhere.invalid:443")
	})
}

// counted is a counter of a proxy, from the log line that it writes when it stops.
func counted(t *testing.T, p *harness.Process, what string) int {
	t.Helper()
	_, rest, _ := strings.Cut(p.Output(), " connections."+what+"=")
	n, err := strconv.Atoi(strings.Fields(rest + " ?")[0])
	if err != nil {
		t.Fatalf("the proxy did not count %s:\n%s", what, p.Output())
	}
	return n
}

// pinOf is the pin of the cluster to which the client has logged in.
func pinOf(t *testing.T, c *harness.Client) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.ProfileDir(), "profile.json"))
	var info struct{ Pin string }
	if err == nil {
		err = json.Unmarshal(b, &info)
	}
	if err != nil || info.Pin == "" {
		t.Fatalf("got %s (%v), want a pin", b, err)
	}
	return info.Pin
}

// approveHeadless runs a headless login and approves it in a browser on this machine.
func approveHeadless(t *testing.T, s *harness.Server, u harness.User, c *harness.Client, command []string) {
	t.Helper()
	p := harness.Start(t, c.Env, command[0], command[1:]...)
	page, err := harness.Open(t, s.Roots(t), p.Line("Open: ")).Follow(t.Context(), "continue")
	if err == nil {
		page, err = page.Submit(t.Context(), map[string]string{"login": u.Email, "password": u.Password})
	}
	if err == nil {
		page, err = page.Submit(t.Context(), map[string]string{"code": harness.FreshCode(t, u)})
	}
	if err != nil || page.Status != 200 {
		t.Fatalf("approve: %v %+v", err, page)
	}
	if err := p.Wait(); err != nil {
		t.Fatalf("tsh login: %v\n%s", err, p.Output())
	}
}
