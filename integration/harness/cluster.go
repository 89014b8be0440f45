package harness

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"filippo.io/age"
)

// Connector is the name of the connector in every cluster that Bootstrap describes.
const Connector = "corp"

// ClusterName is the name of every cluster that Bootstrap describes.
const ClusterName = "story.threshold.test"

// Provider is an OpenID Connect provider that the test runs.
type Provider struct {
	Issuer, ClientID, ClientSecret string
}

// Server is a running threshold server: auth, the proxy and, if the test asked for one, a node in one
// process.
type Server struct {
	Proxy   string // host:port of the public port
	Dir     string // holds its configuration and data
	CAFile  string // certificates to trust for the public port
	Process *Process
	config  string // path of its configuration file
	bin     string // path of threshold; "" means Bin
	env     []string

	// RootKeyFile is the root key of the cluster, RootIdentity the identity file of age that opens it.
	RootKeyFile, RootIdentity string
}

// The ports that FreeAddr gives. They are below those that the kernel gives to listeners on port 0 and to
// connections, so nothing takes one before its program listens there.
const (
	firstPort = 11000 // browsers refuse some ports below
	portCount = 20000
)

// nextPort counts the calls of FreeAddr, from a random start: other test binaries run at the same time.
var nextPort = func() *atomic.Uint32 {
	var n atomic.Uint32
	n.Store(rand.Uint32N(portCount))
	return &n
}()

// FreeAddr returns host:port with a port on which no process listens. It gives each port once.
func FreeAddr(t testing.TB, host string) string {
	t.Helper()
	for range portCount {
		port := firstPort + int(nextPort.Add(1)%portCount)
		addr := net.JoinHostPort(host, strconv.Itoa(port))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatalf("no port of %s is free", host)
	return ""
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

// Bootstrap returns the text of a bootstrap file for a cluster whose users log in at the provider p. The user
// whose email the provider states as alice@example.com is an administrator and may log in to the current
// account on every node. Other users have no role. seal is the path of the key that encrypts secrets in the
// store.
func Bootstrap(t testing.TB, p Provider, seal string) string {
	t.Helper()
	return BootstrapFor(p, seal, "shell, exec, sftp", Account(t))
}

// BootstrapFor is Bootstrap with other rights for alice@example.com: her role, operator, allows the actions,
// which are separated by commas, on every node, with the logins.
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

// StartServer creates a cluster and runs auth, the proxy and a node with the given name in one process.
// Without a name there is no node.
func StartServer(t testing.TB, proxy string, p Provider, node string) *Server {
	t.Helper()
	return StartServerIn(t, t.TempDir(), proxy, p, node)
}

// StartServerIn is StartServer in a given folder.
func StartServerIn(t testing.TB, dir, proxy string, p Provider, node string) *Server {
	t.Helper()
	return StartServerFrom(t, dir, proxy, Bootstrap(t, p, filepath.Join(dir, "seal.key")), node)
}

// StartServerFrom is StartServerIn with bootstrap, the text of a bootstrap file, and with further keys for
// the proxy section of the configuration, each as "name: value". A key "public" replaces the usual one, which
// is the address of the proxy. It returns when the server is ready.
func StartServerFrom(t testing.TB, dir, proxy, bootstrap, node string, proxyKeys ...string) *Server {
	t.Helper()
	s := &Server{Proxy: proxy, Dir: dir}
	s.CAFile = filepath.Join(s.Dir, "data", "ca.pem")
	file := WriteFile(t, s.Dir, "bootstrap.yaml", bootstrap)
	keys := append([]string{"name: proxy-1", fmt.Sprintf("listen: %q", proxy)}, proxyKeys...)
	isPublic := func(key string) bool { return strings.HasPrefix(key, "public:") }
	if !slices.ContainsFunc(proxyKeys, isPublic) {
		keys = append(keys, fmt.Sprintf("public: [%q]", proxy))
	}
	spec := fmt.Sprintf(`kind: server
version: v1
spec:
  data: %s/data
  auth: {listen: %q}
  proxy: {%s}
`, s.Dir, FreeAddr(t, "127.0.0.1"), strings.Join(keys, ", "))
	if node != "" {
		spec += fmt.Sprintf("  node: {name: %s, labels: {self.env: story}}\n", node)
	}
	s.config = WriteFile(t, s.Dir, "threshold.yaml", spec)
	flags := []string{"--bootstrap", file}
	s.start(t, append(flags, s.rootKeyFlags(t)...)...)
	return s
}

// rootKeyFlags make the root key of a new cluster a file of the server's folder, whose identity stands beside
// it: RootKeyFile and RootIdentity.
func (s *Server) rootKeyFlags(t testing.TB) []string {
	t.Helper()
	identity, recipient := NewRootIdentity(t)
	s.RootKeyFile = filepath.Join(s.Dir, "root.key.age")
	s.RootIdentity = WriteFile(t, s.Dir, "root-identity.txt", identity)
	return []string{"--root-key-out", s.RootKeyFile, "--root-key-recipient", recipient}
}

// NewRootIdentity returns the text of an identity file of age, and the recipient that it opens for.
func NewRootIdentity(t testing.TB) (identity, recipient string) {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return key.String() + "\n", key.Recipient().String()
}

// start runs threshold with the server's configuration and further flags, and waits until it is ready.
func (s *Server) start(t testing.TB, flags ...string) {
	t.Helper()
	args := append([]string{"start", "--config", s.config}, flags...)
	s.Process = Start(t, s.env, cmp.Or(s.bin, Bin(t, "threshold")), args...)
	s.Process.WaitFor("msg=ready")
}

// Restart stops the server gracefully and starts it again.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	_ = s.Process.Stop() // a test for which its exit code matters calls Stop itself
	s.start(t)
}

// RestartAs is Restart with another build of threshold, in an environment with env.
func (s *Server) RestartAs(t testing.TB, bin string, env ...string) {
	t.Helper()
	s.bin, s.env = bin, env
	s.Restart(t)
}

// AuthAddr is the address on which the server's auth port listens, taken from its log.
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

// Roots are the certificates that a browser must trust to open the server's pages.
func (s *Server) Roots(t testing.TB) *x509.CertPool { return roots(t, s.CAFile) }

// WriteFile writes a file of mode 0600 and returns its path.
func WriteFile(t testing.TB, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
