//go:build integration

package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// corporateNetwork is a network whose only way out is a real HTTP proxy with a password, at the gate.
type corporateNetwork struct {
	t     *testing.T
	name  string // of its namespace
	gate  string // host:port of the HTTP proxy
	Host  string // this machine, as the gate sees it; the office cannot reach it
	tinyd *harness.Process
}

const (
	corporateUser     = "clerk"
	corporatePassword = "behind-7-doors"
)

// newCorporateNetwork makes two namespaces: the gate, joined to this machine, and the office, joined to the
// gate alone. Nothing is forwarded, and the office has no default route.
func newCorporateNetwork(t *testing.T) *corporateNetwork {
	t.Helper()
	host, gate := namespace(t)
	id := os.Getpid() % 10000
	o := &corporateNetwork{t: t, Host: host, name: fmt.Sprintf("thc%d", id)}
	harness.AsRoot(t, "ip", "netns", "add", o.name)
	t.Cleanup(func() { harness.AsRoot(t, "ip", "netns", "del", o.name) })
	harness.AsRoot(
		t,
		"ip",
		"-n",
		gate,
		"link",
		"add",
		"office",
		"type",
		"veth",
		"peer",
		"name",
		"gate",
		"netns",
		o.name,
	)
	harness.AsRoot(t, "ip", "-n", gate, "addr", "add", "192.0.2.1/30", "dev", "office")
	harness.AsRoot(t, "ip", "-n", gate, "link", "set", "office", "up")
	harness.AsRoot(t, "ip", "netns", "exec", gate, "sysctl", "-qw", "net.ipv4.ip_forward=0")
	harness.AsRoot(t, "ip", "-n", o.name, "addr", "add", "192.0.2.2/30", "dev", "gate")
	harness.AsRoot(t, "ip", "-n", o.name, "link", "set", "gate", "up")
	harness.AsRoot(t, "ip", "-n", o.name, "link", "set", "lo", "up")

	o.gate = "192.0.2.1:8888"
	conf := harness.WriteFile(
		t,
		t.TempDir(),
		"tinyproxy.conf",
		fmt.Sprintf(
			"Port 8888\nListen 192.0.2.1\nTimeout 600\nMaxClients 50\nLogLevel Info\nBasicAuth %s %s\n",
			corporateUser,
			corporatePassword,
		),
	)
	o.tinyd = harness.Start(t, nil, "ip", "netns", "exec", gate, "tinyproxy", "-d", "-c", conf)
	o.tinyd.WaitFor("Accepting connections")
	return o
}

func (o *corporateNetwork) proxy(user, password string) string {
	if user == "" {
		return "http://" + o.gate
	}
	return fmt.Sprintf("http://%s:%s@%s", user, password, o.gate)
}

// insideCommand puts a command into the office.
func (o *corporateNetwork) insideCommand(args ...string) []string {
	return append([]string{"ip", "netns", "exec", o.name}, args...)
}

func (o *corporateNetwork) run(env []string, args ...string) harness.Result {
	o.t.Helper()
	args = o.insideCommand(args...)
	return harness.Run(o.t, env, nil, args[0], args[1:]...)
}

// A company lets nothing out but what its HTTP proxy carries. Machines join and people log in and work from
// there all the same.
func TestUsersAndNodesWorkBehindACorporateProxy(t *testing.T) {
	o := newCorporateNetwork(t)
	proxy := harness.FreeAddr(t, o.Host)
	s := harness.StartServer(t, proxy, harness.StartProvider(t, "127.0.0.1", proxy), "")
	admin := harness.NewClient(t)
	alice := admin.FirstLogin(s, harness.Alice())
	token := admin.Token("node")
	good := "HTTPS_PROXY=" + o.proxy(corporateUser, corporatePassword)
	clerk := harness.NewClient(t)
	clerk.Env = append(
		clerk.Env,
		"HTTPS_PROXY=",
		"https_proxy=",
		"HTTP_PROXY="+o.proxy(corporateUser, corporatePassword),
		"NO_PROXY=",
		"no_proxy=",
	)
	pin := pinOf(t, admin)

	t.Run("there is no other way out, and HTTP_PROXY is for something else", func(t *testing.T) {
		r := o.run(clerk.Env, clerk.Path(), "login", "--headless", "--proxy", proxy, "--pin", pin)
		r.Refused(t, proxy+" cannot be reached")
	})
	t.Run("a password that is missing or wrong is said to be", func(t *testing.T) {
		for url, says := range map[string]string{o.proxy("", ""): "the HTTP proxy at " + o.gate + " wants a password", o.proxy(corporateUser, "guess"): `does not accept the password for "clerk"`} {
			r := o.run(
				append(clerk.Env, "HTTPS_PROXY="+url),
				clerk.Path(),
				"login",
				"--headless",
				"--proxy",
				proxy,
				"--pin",
				pin,
			)
			r.Refused(t, says)
			if strings.Contains(r.Stderr, "guess") {
				t.Errorf("got %q, want no password in it", r.Stderr)
			}
			cfg := harness.WriteFile(
				t,
				t.TempDir(),
				"node.yaml",
				fmt.Sprintf(
					"kind: node\nversion: v1\nspec: {proxies: [%q], https_proxy: %q, data: %q, token_file: %q, name: branch}\n",
					proxy,
					url,
					filepath.Join(t.TempDir(), "data"),
					harness.WriteFile(t, t.TempDir(), "token", token),
				),
			)
			r = o.run(nil, harness.Bin(t, "threshold-node"), "--config", cfg)
			if r.Code != 1 || !strings.Contains(r.Stderr, says) ||
				!strings.Contains(r.Stderr, "threshold-node: hint: ") ||
				strings.Contains(r.Stderr, "guess") {
				t.Errorf(
					"got %+v, want the agent to end with %q and a hint, and to tell no password",
					r,
					says,
				)
			}
		}
	})

	cfg := harness.WriteFile(
		t,
		t.TempDir(),
		"node.yaml",
		fmt.Sprintf(
			"kind: node\nversion: v1\nspec: {proxies: [%q], https_proxy: %q, data: %q, token_file: %q, name: branch}\n",
			proxy,
			o.proxy(corporateUser, corporatePassword),
			filepath.Join(t.TempDir(), "data"),
			harness.WriteFile(t, t.TempDir(), "token", token),
		),
	)
	agent := o.insideCommand(harness.Bin(t, "threshold-node"), "--config", cfg)
	node := harness.Start(t, nil, agent[0], agent[1:]...)
	node.WaitFor("tunnel stands")
	if strings.Contains(node.Output(), corporatePassword) {
		t.Error("got the HTTP proxy's password in the agent's log")
	}
	clerk.Env = append(clerk.Env, good)
	approveHeadless(
		t,
		s,
		alice,
		clerk,
		o.insideCommand(clerk.Path(), "login", "--headless", "--proxy", proxy, "--pin", pin),
	)

	tsh := func(args ...string) harness.Result {
		t.Helper()
		return o.run(clerk.Env, append([]string{clerk.Path()}, args...)...)
	}
	t.Run("tsh ssh and scp", func(t *testing.T) {
		if got := tsh("ls", "-q").OK(t); strings.TrimSpace(got) != "branch" {
			t.Errorf("got nodes %q, want the one in the office", got)
		}
		if got := tsh("ssh", "branch", "hostname -I").OK(t); strings.TrimSpace(got) != "192.0.2.2" {
			t.Errorf("got a session at %q, want it in the office", got)
		}
		dir := t.TempDir()
		from, to := harness.WriteFile(
			t,
			dir,
			"from",
			strings.Repeat("0123456789abcdef", 1<<16),
		), filepath.Join(
			dir,
			"to",
		)
		tsh("scp", from, "branch:"+to).OK(t)
		if got, err := os.ReadFile(to); err != nil || len(got) != 1<<20 {
			t.Errorf("got %d bytes, %v, want 1 MiB", len(got), err)
		}
	})
	t.Run("stock OpenSSH by the configuration that tsh writes", func(t *testing.T) {
		conf := harness.WriteFile(t, t.TempDir(), "ssh_config", tsh("config").OK(t))
		r := o.run(
			clerk.Env,
			"ssh",
			"-F",
			conf,
			"-o",
			"BatchMode=yes",
			harness.Account(t)+"@branch."+harness.ClusterName,
			"echo from the office",
		)
		if got := r.OK(t); strings.TrimSpace(got) != "from the office" {
			t.Errorf("got %q, want the command's output", got)
		}
	})
	t.Run("NO_PROXY is heeded", func(t *testing.T) {
		host, _, _ := net.SplitHostPort(proxy)
		o.run(append(clerk.Env, "NO_PROXY="+host), clerk.Path(), "ls").Refused(t, "cannot be reached")
		r := harness.Run(
			t,
			append(admin.Env, "HTTPS_PROXY=http://"+harness.FreeAddr(t, "127.0.0.1"), "NO_PROXY="+host),
			nil,
			admin.Path(),
			"ls",
			"-q",
		)
		if got := r.OK(t); strings.TrimSpace(got) != "branch" {
			t.Errorf("got %q with an HTTP proxy that is not there, want it left aside", got)
		}
	})
	t.Run("a proxy that wants WebSockets besides", func(t *testing.T) {
		second, dir := harness.FreeAddr(t, o.Host), t.TempDir()
		conf := fmt.Sprintf(
			"kind: server\nversion: v1\nspec:\n  data: %q\n  proxy: {listen: %q, public: [%q], auth: %q, token_file: %q, name: proxy-2, transport: websocket}\n",
			filepath.Join(
				dir,
				"data",
			),
			second,
			second,
			s.AuthAddr(t),
			harness.WriteFile(t, dir, "token", admin.Token("proxy")),
		)
		p := harness.Start(
			t,
			nil,
			harness.Bin(t, "threshold"),
			"start",
			"--config",
			harness.WriteFile(t, dir, "threshold.yaml", conf),
		)
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
		n.WaitFor("tunnel stands")
		if !strings.Contains(n.Output(), "password of the HTTP proxy is on the command line") {
			t.Errorf("got %q, want a word about the password in ps", n.Output())
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		inside, auth, tunnels := counted(t, p, "inside"), counted(t, p, "auth"), counted(t, p, "tunnel")
		if auth < 1 || tunnels < 1 ||
			inside < auth+tunnels { // the stop may have cut one short before it said what it was
			t.Errorf(
				"got %d connections inside WebSockets, want the %d to auth and the %d tunnels",
				inside,
				auth,
				tunnels,
			)
		}
		if accepted, web := counted(t, p, "accepted"), counted(t, p, "web")+counted(t, p, "refused"); accepted > web {
			t.Errorf("got %d connections of which %d were for the web, want no other", accepted, web)
		}
	})
	t.Run("an HTTP proxy that says no is quoted", func(t *testing.T) {
		r := o.run(
			append(clerk.Env, "HTTPS_PROXY=http://"+o.gate+"/", good),
			clerk.Path(),
			"login",
			"--proxy",
			"nowhere.invalid:443",
			"--headless",
			"--pin",
			pin,
		)
		r.Refused(t, "the HTTP proxy at "+o.gate, "nowhere.invalid:443")
	})
}

// counted reads what a proxy counted, in its last words.
func counted(t *testing.T, p *harness.Process, what string) int {
	t.Helper()
	_, rest, _ := strings.Cut(p.Output(), " connections."+what+"=")
	n, err := strconv.Atoi(strings.Fields(rest + " ?")[0])
	if err != nil {
		t.Fatalf("the proxy did not count %s:\n%s", what, p.Output())
	}
	return n
}

// pinOf is the pin of the cluster where the client logged in.
func pinOf(t *testing.T, c *harness.Client) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.Home, ".tsh", "*", "profile.yaml"))
	if err != nil || len(files) != 1 {
		t.Fatalf("got profiles %v, %v, want one", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if pin, ok := strings.CutPrefix(line, "pin: "); ok {
			return strings.TrimSpace(pin)
		}
	}
	t.Fatalf("got no pin in %s", b)
	return ""
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
