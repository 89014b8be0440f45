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

// Use makes the client use another build of tsh, in an environment with env.
func (c *Client) Use(bin string, env ...string) {
	c.bin, c.Env = bin, append(c.Env, env...)
}

// Tsh runs tsh to its end.
func (c *Client) Tsh(args ...string) Result {
	c.t.Helper()
	return Run(c.t, c.Env, nil, c.bin, args...)
}

// Until runs tsh with args again and again until isWanted returns true for its standard output, because a
// change takes a moment to reach all machines. It fails the test after Timeout.
func (c *Client) Until(isWanted func(stdout string) bool, args ...string) {
	c.t.Helper()
	var out string
	for deadline := time.Now().Add(Timeout); time.Now().Before(deadline); {
		out = c.Tsh(args...).Stdout
		if isWanted(out) {
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

// StartLogin starts tsh login, which prints the address of the login page and waits for the browser. args are
// further flags.
func (c *Client) StartLogin(args ...string) *Process {
	c.t.Helper()
	return Start(c.t, c.Env, c.bin, append([]string{"login", "--browser=none"}, args...)...)
}

// SignIn opens the login page at address in a new browser and signs in at the provider. It returns the page
// to which the provider sends the browser: usually the one for the second factor. roots are the authorities
// of the page's web certificate.
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

// usedSteps has, by TOTP secret, the last time step whose code FreshCode returned.
var usedSteps = struct {
	mu    sync.Mutex // guards steps
	steps map[string]int64
}{steps: map[string]int64{}}

// FreshCode returns a TOTP code of the user that it has not returned before. auth accepts each code once, but
// besides the code of the current time step also that of the next. So of two logins of one user neither
// waits; a third waits, up to 30 s, for the next time step. auth runs in another process, so its clock cannot
// be replaced.
func FreshCode(t testing.TB, u User) string {
	t.Helper()
	takeStep := func(number int64) bool { // false: its code was used
		usedSteps.mu.Lock()
		defer usedSteps.mu.Unlock()
		isFresh := number > usedSteps.steps[u.TOTPSecret]
		if isFresh {
			usedSteps.steps[u.TOTPSecret] = number
		}
		return isFresh
	}
	for {
		now := time.Now()
		for _, at := range []time.Time{now, now.Add(step)} {
			if takeStep(at.Unix() / int64(step.Seconds())) {
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

// UseRelay makes tsh connect to relay, the address of a relay in front of the proxy, in place of the proxy or
// of the relay before: it replaces the address in the files of the client's only login.
func (c *Client) UseRelay(relay string) {
	c.t.Helper()
	dir := c.ProfileDir()
	b, err := os.ReadFile(filepath.Join(dir, "profile.json"))
	if err != nil {
		c.t.Fatal(err)
	}
	var info struct{ Proxies []struct{ Address string } }
	if err := json.Unmarshal(b, &info); err != nil || len(info.Proxies) != 1 {
		c.t.Fatalf("got %s (%v), want one proxy", b, err)
	}
	proxy := info.Proxies[0].Address
	replaceAddress := strings.NewReplacer(proxy, relay, knownHostsName(proxy), knownHostsName(relay))
	for _, name := range []string{"profile.json", "known_hosts"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			c.t.Fatal(err)
		}
		WriteFile(c.t, dir, name, replaceAddress.Replace(string(b)))
	}
}

// ProfileDir is the folder of the client's only login.
func (c *Client) ProfileDir() string {
	c.t.Helper()
	files, err := filepath.Glob(filepath.Join(c.Home, ".tsh", "clusters", "*", "profile.json"))
	if err != nil || len(files) != 1 {
		c.t.Fatalf("got profiles %v, %v, want one", files, err)
	}
	return filepath.Dir(files[0])
}

// knownHostsName is how known_hosts writes an address with a port.
func knownHostsName(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	return "[" + host + "]:" + port
}

// Command returns a command that runs tsh with args. The caller starts it, on a terminal for example.
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

// login logs in at the proxy through the provider's form and the page for the second factor, which the user
// has enrolled. caFile has the authorities of the proxy's web certificate.
func (c *Client) login(proxy, caFile string, u User) {
	c.t.Helper()
	tshLogin := c.StartLogin("--proxy", proxy, "--ca-file", caFile)
	page := SignIn(c.t, roots(c.t, caFile), tshLogin.Line("Open: "), u.Email, u.Password)
	page, err := page.Submit(c.t.Context(), map[string]string{"code": FreshCode(c.t, u)})
	if err != nil || page.Status != 200 {
		c.t.Fatalf("submit the code: %v %+v", err, page)
	}
	if err := tshLogin.Wait(); err != nil {
		c.t.Fatalf("tsh login: %v\n%s", err, tshLogin.Output())
	}
}

// FirstLogin logs in a user who has no second factor yet. It enrols one, and returns the user with the TOTP
// secret, which later logins need.
func (c *Client) FirstLogin(s *Server, u User) User {
	c.t.Helper()
	tshLogin := c.StartLogin("--proxy", s.Proxy, "--ca-file", s.CAFile)
	page := SignIn(c.t, s.Roots(c.t), tshLogin.Line("Open: "), u.Email, u.Password)
	u, page = Enrol(c.t, page, u)
	if _, err := page.Follow(c.t.Context(), "continue"); err != nil {
		c.t.Fatal(err)
	}
	if err := tshLogin.Wait(); err != nil {
		c.t.Fatalf("tsh login: %v\n%s", err, tshLogin.Output())
	}
	return u
}

// Enrol submits a first code for the TOTP secret that page offers, which stores the secret as the user's
// second factor. It returns the user with the secret, and the next page, which shows the recovery codes.
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
