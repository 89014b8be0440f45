package harness

import (
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/formbrowser"
)

// Connector is the name of its provider in every cluster that Birth describes.
const Connector = "corp"

// ClusterName is the name of every cluster that Birth describes.
const ClusterName = "story.threshold.test"

// Provider is an OIDC provider that a story runs.
type Provider struct {
	Issuer, ClientID, ClientSecret string
}

// Server is a running threshold server with a configuration of the story's own.
type Server struct {
	Proxy   string // host:port of the public port
	Dir     string
	CAFile  string
	Process *Process
	config  string
}

// FreeAddr gives an address of the host that nobody listens on.
func FreeAddr(t testing.TB, host string) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Account is the current operating-system account.
func Account(t testing.TB) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}

// Bootstrap is a bootstrap file: whoever the provider calls alice@example.com is an administrator and may be
// the current account on every node; everyone else has no role.
func Bootstrap(t testing.TB, p Provider, seal string) string {
	t.Helper()
	return BootstrapFor(p, seal, "shell, exec, sftp", Account(t))
}

// BootstrapFor is Birth with the actions that the role operator allows, and the accounts.
func BootstrapFor(p Provider, seal, actions string, logins ...string) string {
	return fmt.Sprintf(`kind: cluster
version: v1
metadata: {name: %s}
spec:
  seal: file://%s
  connector:
    name: %s
    type: oidc
    issuer: %s
    client_id: %s
    client_secret: %s
    roles:
      - {claim: email, value: alice@example.com, roles: [operator]}
  admin: {claim: email, value: alice@example.com}
---
kind: role
version: v1
metadata: {name: operator}
spec:
  allow:
    - nodes: {"*": "*"}
      logins: [%s]
      actions: [%s]
`, ClusterName, seal, Connector, p.Issuer, p.ClientID, p.ClientSecret, strings.Join(logins, ", "), actions)
}

// StartServer gives birth to a cluster and runs auth and proxy, and a node with the name given (none if
// empty), in one process.
func StartServer(t testing.TB, proxy string, p Provider, node string) *Server {
	t.Helper()
	return StartServerIn(t, t.TempDir(), proxy, p, node)
}

// StartServerIn is StartServer in a folder of the story's choice.
func StartServerIn(t testing.TB, dir, proxy string, p Provider, node string) *Server {
	t.Helper()
	return StartServerFrom(t, dir, proxy, Bootstrap(t, p, filepath.Join(dir, "seal.key")), node)
}

// StartServerFrom is StartServerIn with a bootstrap file of the story's own, and with more keys of the
// proxy's section, as "name: value".
func StartServerFrom(t testing.TB, dir, proxy, birth, node string, more ...string) *Server {
	t.Helper()
	s := &Server{Proxy: proxy, Dir: dir}
	s.CAFile = filepath.Join(s.Dir, "data", "ca.pem")
	birth = WriteFile(t, s.Dir, "birth.yaml", birth)
	keys := append([]string{"name: proxy-1", fmt.Sprintf("listen: %q", proxy)}, more...)
	if !slices.ContainsFunc(more, func(k string) bool { return strings.HasPrefix(k, "public:") }) {
		keys = append(keys, fmt.Sprintf("public: [%q]", proxy))
	}
	spec := fmt.Sprintf(
		"kind: server\nversion: v1\nspec:\n  data: %s/data\n  auth: {listen: \"127.0.0.1:0\"}\n  proxy: {%s}\n",
		s.Dir,
		strings.Join(keys, ", "),
	)
	if node != "" {
		spec += fmt.Sprintf("  node: {name: %s, labels: {env: story}}\n", node)
	}
	s.config = WriteFile(t, s.Dir, "threshold.yaml", spec)
	s.start(t, "--bootstrap", birth)
	return s
}

func (s *Server) start(t testing.TB, more ...string) {
	t.Helper()
	s.Process = Start(
		t,
		nil,
		Bin(t, "threshold"),
		append([]string{"start", "--config", s.config}, more...)...)
	s.Process.WaitFor("msg=ready")
}

// Restart stops the server as SIGTERM would and starts it again.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	_ = s.Process.Stop() // how it ended is the story's business
	s.start(t)
}

// AuthAddr is where the server's auth port listens, as its log says.
func (s *Server) AuthAddr(t testing.TB) string {
	t.Helper()
	for line := range strings.Lines(s.Process.Output()) {
		if strings.Contains(line, `msg="auth is ready"`) {
			_, rest, _ := strings.Cut(line, "listen=")
			return strings.Fields(rest)[0]
		}
	}
	t.Fatalf("the log does not say where auth listens:\n%s", s.Process.Output())
	return ""
}

// Roots is what a browser must trust to open the server's pages.
func (s *Server) Roots(t testing.TB) *x509.CertPool { return roots(t, s.CAFile) }

// WriteFile writes a file of the story's own and returns its path.
func WriteFile(t testing.TB, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// FirstLogin logs a person in who has no second factor yet: it enrols, and returns the person with the
// secret.
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

// Enrol confirms the second factor that the page offers and returns the person with the secret, and the page
// with recovery codes.
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
