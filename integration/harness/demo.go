package harness

import (
	"crypto/x509"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"github.com/threshold-access/threshold/internal/formbrowser"
)

// User is one of the demo's people.
type User struct {
	Email      string   `json:"email"`
	Password   string   `json:"password"`
	TOTPSecret string   `json:"totp_secret"`
	Roles      []string `json:"roles"`
}

// Demo is a running threshold-demo, as demo.json describes it.
type Demo struct {
	Proxy  string `json:"proxy"`
	CAFile string `json:"ca_file"`
	Users  []User `json:"users"`
	Node   string `json:"node"`
	Login  string `json:"login"`

	Dir     string
	Process *Process
}

// StartDemo runs threshold-demo on a free port, with its data in a folder of the story's own, until the story
// ends.
func StartDemo(t testing.TB) *Demo {
	t.Helper()
	d := &Demo{Dir: t.TempDir(), Proxy: "127.0.0.1:0"}
	d.Restart(t)
	return d
}

// Restart starts the demo again after its process ended, with the same data at the same address.
func (d *Demo) Restart(t testing.TB) {
	t.Helper()
	d.Process = Start(t, nil, Bin(t, "threshold-demo"), "--listen", d.Proxy, "--data", d.Dir)
	d.Process.Line("Ready")
	b, err := os.ReadFile(filepath.Join(d.Dir, "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, d); err != nil {
		t.Fatal(err)
	}
}

// Alice may use the current account; Bob may only look.
func (d *Demo) Alice() User { return d.Users[0] }

func (d *Demo) Bob() User { return d.Users[1] }

// Roots is what a browser must trust to open the demo's pages.
func (d *Demo) Roots(t testing.TB) *x509.CertPool { return roots(t, d.CAFile) }

func roots(t testing.TB, file string) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("%s has no certificate", file)
	}
	return pool
}

// Client is a person's machine: tsh with a home of its own.
type Client struct {
	t    testing.TB
	bin  string
	Home string
	Env  []string
}

// NewClient gives a machine on which nobody has logged in. It has no ssh-agent.
func NewClient(t testing.TB) *Client {
	t.Helper()
	home := t.TempDir()
	return &Client{
		t:    t,
		bin:  Bin(t, "tsh"),
		Home: home,
		Env:  []string{"TSH_HOME=" + filepath.Join(home, ".tsh"), "HOME=" + home, "SSH_AUTH_SOCK="},
	}
}

// Tsh runs tsh to its end.
func (c *Client) Tsh(args ...string) Result {
	c.t.Helper()
	return Run(c.t, c.Env, nil, c.bin, args...)
}

// Until runs tsh again and again until what it prints is as wanted: for news that takes a moment to get
// round.
func (c *Client) Until(wanted func(stdout string) bool, args ...string) {
	c.t.Helper()
	var out string
	for late := time.Now().Add(Timeout); time.Now().Before(late); {
		if out = c.Tsh(args...).Stdout; wanted(out) {
			return
		}
	}
	c.t.Fatalf("tsh %v did not come to print what was wanted, but %q", args, out)
}

// Path of the tsh program.
func (c *Client) Path() string { return c.bin }

// Login logs the person in through the provider's form and the factor page.
func (c *Client) Login(d *Demo, u User) {
	c.t.Helper()
	c.login(d.Proxy, d.CAFile, u)
}

// StartLogin runs tsh login and leaves it waiting.
func (c *Client) StartLogin(args ...string) *Process {
	c.t.Helper()
	return Start(c.t, c.Env, c.bin, append([]string{"login", "--browser=none"}, args...)...)
}

// SignIn opens the login page in a fresh browser and signs in at the provider; it returns the page after
// that.
func SignIn(t testing.TB, roots *x509.CertPool, address, email, password string) *formbrowser.Page {
	t.Helper()
	page, err := formbrowser.New(roots, "").Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	if page, err = page.Submit(t.Context(), map[string]string{"login": email, "password": password}); err != nil {
		t.Fatal(err)
	}
	return page
}

// step is the length of a TOTP time step (RFC 6238 section 4.1).
const step = 30 * time.Second

// usedSteps has the last step used of each secret.
var usedSteps = struct {
	mu    sync.Mutex
	steps map[string]int64
}{steps: map[string]int64{}}

// FreshCode gives a code that was not used yet in this run. Codes of the step before and after are good too,
// so up to three logins of one person need no waiting; a fourth waits for the clock, which nothing can
// replace: auth runs in another process.
func FreshCode(t testing.TB, u User) string {
	t.Helper()
	spend := func(n int64) bool {
		usedSteps.mu.Lock()
		defer usedSteps.mu.Unlock()
		fresh := n > usedSteps.steps[u.TOTPSecret]
		if fresh {
			usedSteps.steps[u.TOTPSecret] = n
		}
		return fresh
	}
	for {
		now := time.Now()
		for _, at := range []time.Time{now, now.Add(step)} {
			if spend(at.Unix() / int64(step.Seconds())) {
				code, err := totp.GenerateCode(u.TOTPSecret, at)
				if err != nil {
					t.Fatal(err)
				}
				return code
			}
		}
		next := now.Truncate(step).Add(step)
		<-time.After(time.Until(next))
	}
}

// UseRelay makes of the login at a proxy one by way of another address, such as a relay's in front of it, and
// the one that commands use.
func (c *Client) UseRelay(proxy, by string) {
	c.t.Helper()
	home := filepath.Join(c.Home, ".tsh")
	dir := func(addr string) string { return filepath.Join(home, strings.ReplaceAll(addr, ":", "_")) }
	if err := os.MkdirAll(dir(by), 0o700); err != nil {
		c.t.Fatal(err)
	}
	files, err := os.ReadDir(dir(proxy))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir(proxy), f.Name()))
		if err != nil {
			c.t.Fatal(err)
		}
		WriteFile(
			c.t,
			dir(by),
			f.Name(),
			strings.NewReplacer(proxy, by, knownHostsName(proxy), knownHostsName(by)).Replace(string(b)),
		)
	}
	WriteFile(c.t, home, "current", by)
}

// knownHostsName is how known_hosts names a host at a port of its own.
func knownHostsName(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	return "[" + host + "]:" + port
}

// Command prepares tsh to be started in another way than Tsh does.
func (c *Client) Command(args ...string) *exec.Cmd {
	cmd := exec.Command(c.bin, args...)
	cmd.Env = append(os.Environ(), append(c.Env, "TERM=xterm")...)
	return cmd
}

// Open opens an address in a fresh browser.
func Open(t testing.TB, roots *x509.CertPool, address string) *formbrowser.Page {
	t.Helper()
	page, err := formbrowser.New(roots, "").Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// LoginAt logs an enrolled person in by way of the proxy given.
func (c *Client) LoginAt(proxy string, s *Server, u User) {
	c.t.Helper()
	c.login(proxy, s.CAFile, u)
}

func (c *Client) login(proxy, caFile string, u User) {
	c.t.Helper()
	p := c.StartLogin("--proxy", proxy, "--ca-file", caFile)
	page := SignIn(c.t, roots(c.t, caFile), p.Line("Open: "), u.Email, u.Password)
	if page, err := page.Submit(c.t.Context(), map[string]string{"code": FreshCode(c.t, u)}); err != nil ||
		page.Status != 200 {
		c.t.Fatalf("factor page: %v %+v", err, page)
	}
	if err := p.Wait(); err != nil {
		c.t.Fatalf("tsh login: %v\n%s", err, p.Output())
	}
}
