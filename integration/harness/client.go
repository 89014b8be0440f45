package harness

import (
	"crypto/x509"
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

// Client is tsh on a user's machine, with a home directory of its own.
type Client struct {
	t    testing.TB
	bin  string // path of tsh
	Home string
	Env  []string // for tsh and for programs that use its login
}

// NewClient returns a client without a login and without an SSH agent.
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

// Until runs tsh again and again until its output is as wanted: a change takes a moment to reach all
// machines. It fails the test after Timeout.
func (c *Client) Until(wanted func(stdout string) bool, args ...string) {
	c.t.Helper()
	var out string
	for deadline := time.Now().Add(Timeout); time.Now().Before(deadline); {
		if out = c.Tsh(args...).Stdout; wanted(out) {
			return
		}
	}
	c.t.Fatalf("tsh %v did not print what was wanted within %v; the last output was %q", args, Timeout, out)
}

// Path is the path of the tsh program.
func (c *Client) Path() string { return c.bin }

// Login logs in to the demo through the provider's form and the page for the second factor.
func (c *Client) Login(d *Demo, u User) {
	c.t.Helper()
	c.login(d.Proxy, d.CAFile, u)
}

// StartLogin starts tsh login, which waits for the browser.
func (c *Client) StartLogin(args ...string) *Process {
	c.t.Helper()
	return Start(c.t, c.Env, c.bin, append([]string{"login", "--browser=none"}, args...)...)
}

// SignIn opens the login page in a new browser and signs in at the provider. It returns the page that
// follows.
func SignIn(t testing.TB, roots *x509.CertPool, address, email, password string) *formbrowser.Page {
	t.Helper()
	page, err := formbrowser.New(roots, "").Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	page, err = page.Submit(t.Context(), map[string]string{"login": email, "password": password})
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// step is the length of a TOTP time step (RFC 6238 section 4.1).
const step = 30 * time.Second

// usedSteps has the last time step of each secret whose code was used.
var usedSteps = struct {
	mu    sync.Mutex // guards steps
	steps map[string]int64
}{steps: map[string]int64{}}

// FreshCode returns a TOTP code that was not used yet in this run. auth also accepts the codes of the step
// before and after, so a few logins of one user need not wait. A further one waits for the next time step:
// auth runs in another process, so its clock cannot be replaced.
func FreshCode(t testing.TB, u User) string {
	t.Helper()
	use := func(n int64) bool {
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
			if use(at.Unix() / int64(step.Seconds())) {
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

// UseRelay copies the login at the proxy to one at the address of a relay in front of the proxy, and makes
// it the one that tsh uses.
func (c *Client) UseRelay(proxy, relay string) {
	c.t.Helper()
	home := filepath.Join(c.Home, ".tsh")
	dir := func(addr string) string { return filepath.Join(home, strings.ReplaceAll(addr, ":", "_")) }
	if err := os.MkdirAll(dir(relay), 0o700); err != nil {
		c.t.Fatal(err)
	}
	files, err := os.ReadDir(dir(proxy))
	if err != nil {
		c.t.Fatal(err)
	}
	addresses := strings.NewReplacer(proxy, relay, knownHostsName(proxy), knownHostsName(relay))
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir(proxy), f.Name()))
		if err != nil {
			c.t.Fatal(err)
		}
		WriteFile(c.t, dir(relay), f.Name(), addresses.Replace(string(b)))
	}
	WriteFile(c.t, home, "current", relay)
}

// knownHostsName is how known_hosts writes an address with a port.
func knownHostsName(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	return "[" + host + "]:" + port
}

// Command returns a command for tsh that the caller starts, on a terminal for example.
func (c *Client) Command(args ...string) *exec.Cmd {
	cmd := exec.Command(c.bin, args...)
	cmd.Env = append(os.Environ(), append(c.Env, "TERM=xterm")...)
	return cmd
}

// Open opens an address in a new browser.
func Open(t testing.TB, roots *x509.CertPool, address string) *formbrowser.Page {
	t.Helper()
	page, err := formbrowser.New(roots, "").Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// LoginAt logs in a user who has enrolled, through the given proxy.
func (c *Client) LoginAt(proxy string, s *Server, u User) {
	c.t.Helper()
	c.login(proxy, s.CAFile, u)
}

func (c *Client) login(proxy, caFile string, u User) {
	c.t.Helper()
	p := c.StartLogin("--proxy", proxy, "--ca-file", caFile)
	page := SignIn(c.t, roots(c.t, caFile), p.Line("Open: "), u.Email, u.Password)
	page, err := page.Submit(c.t.Context(), map[string]string{"code": FreshCode(c.t, u)})
	if err != nil || page.Status != 200 {
		c.t.Fatalf("submit the code: %v %+v", err, page)
	}
	if err := p.Wait(); err != nil {
		c.t.Fatalf("tsh login: %v\n%s", err, p.Output())
	}
}

// FirstLogin logs in a user who has no second factor yet. It enrols one and returns the user with its secret.
func (c *Client) FirstLogin(s *Server, u User) User {
	c.t.Helper()
	p := c.StartLogin("--proxy", s.Proxy, "--ca-file", s.CAFile)
	page := SignIn(c.t, s.Roots(c.t), p.Line("Open: "), u.Email, u.Password)
	u, page = Enrol(c.t, page, u)
	if _, err := page.Follow(c.t.Context(), "continue"); err != nil {
		c.t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		c.t.Fatalf("tsh login: %v\n%s", err, p.Output())
	}
	return u
}

// Enrol confirms the second factor that the page offers. It returns the user with the secret, and the next
// page, which shows the recovery codes.
func Enrol(t testing.TB, page *formbrowser.Page, u User) (User, *formbrowser.Page) {
	t.Helper()
	u.TOTPSecret = strings.ReplaceAll(page.ByID("secret"), " ", "")
	if u.TOTPSecret == "" {
		t.Fatalf("got page %q, want an enrolment", page.Text())
	}
	next, err := page.Submit(t.Context(), map[string]string{"code": FreshCode(t, u)})
	if err != nil {
		t.Fatal(err)
	}
	return u, next
}
