//go:build integration

package integration

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
	"github.com/threshold-access/threshold/internal/formbrowser"
)

// publicName is the name of the proxy for browsers. The hosts file of the container stands in for a name
// server.
const publicName = "access.example.com"

// A real ACME authority (pebble) checks the proxy's name by TLS-ALPN-01 on the public port and issues a web
// certificate. It runs in the same container as the server, because it connects to port 443 of the name.
func TestTheProxyGetsItsWebCertificateByACME(t *testing.T) {
	container := harness.NewContainer(t, "proxy-1")
	container.Run("rm", "-f", "/etc/hosts").OK(t)
	container.Put("/etc/hosts", []byte("127.0.0.1 localhost proxy-1 "+publicName+"\n"), 0o644)
	a := newWebAuthority(t)
	startPebble(t, container, a)
	start := startACMEServer(t, container)
	_, recipient := harness.NewRootIdentity(t)
	server := start("--bootstrap", "/srv/bootstrap.yaml", "--root-key-out", "/srv/root.key.age",
		"--root-key-recipient", recipient)
	server.WaitFor(`msg="web certificate from the ACME authority"`)
	roots := pebbleRoots(t, container, a)

	first := certificateFor(t, container, publicName)
	t.Run("browsers trust it", func(t *testing.T) {
		page, err := formbrowser.New(roots, "").
			DialWith(container.Dial(map[string]string{publicName: "127.0.0.1"})).
			Open(t.Context(), "https://"+publicName+"/")
		if err != nil || page.Status != http.StatusOK {
			t.Errorf("got %+v, %v, want the proxy's page", page, err)
		}
	})
	t.Run("a client that asks for another name gets the proxy's own certificate", func(t *testing.T) {
		for _, name := range []string{"", "other.example.com"} {
			if got := certificateFor(t, container, name); got.Equal(first) || verifies(got, roots) {
				t.Errorf("%q: got %v, want the proxy's own certificate", name, got.Subject)
			}
		}
	})
	t.Run("a challenge without an order is refused", func(t *testing.T) {
		for _, name := range []string{publicName, "other.example.com", ""} {
			if _, err := handshake(t, container, name, "acme-tls/1"); err == nil {
				t.Errorf("%q: got a handshake, want it refused", name)
			}
		}
	})
	t.Run("only the server may read the keys, and a restart orders no new certificate", func(t *testing.T) {
		out := container.Run("find", "/srv/data/proxy/acme", "-type", "f", "-printf", "%m %f\n").OK(t)
		if !strings.Contains(out, "600 "+publicName) || !strings.Contains(out, "600 acme_account+key") {
			t.Errorf("got %q, want account and certificate of mode 600", out)
		}
		for line := range strings.Lines(out) {
			if !strings.HasPrefix(line, "600 ") {
				t.Errorf("got %q, want mode 600", line)
			}
		}
		container.Run("sh", "-c", "kill -TERM $(cat /srv/pid)").OK(t)
		if err := server.Wait(); err != nil {
			t.Fatal(err)
		}
		start().WaitFor(`msg="web certificate from the ACME authority"`)
		if got := certificateFor(t, container, publicName); !got.Equal(first) {
			const format = "got serial %s after a restart, want %s from the disk"
			t.Errorf(format, got.SerialNumber, first.SerialNumber)
		}
	})
}

// startACMEServer writes the server's files into the container. It returns a function that starts the server.
func startACMEServer(t *testing.T, container *harness.Container) func(more ...string) *harness.Process {
	t.Helper()
	bin, err := os.ReadFile(harness.Bin(t, "threshold"))
	if err != nil {
		t.Fatal(err)
	}
	container.Put("/usr/local/bin/threshold", bin, 0o755)
	provider := harness.Provider{Issuer: "http://127.0.0.1:1", ClientID: "threshold", ClientSecret: "secret"}
	bootstrap := harness.Bootstrap(t, provider, "/srv/seal.key")
	container.Put("/srv/bootstrap.yaml", []byte(bootstrap), 0o600)
	container.Put("/srv/threshold.yaml", fmt.Appendf(nil, `kind: server
version: v1
spec:
  data: /srv/data
  auth: {}
  proxy:
    public: [%s, 127.0.0.1]
    name: proxy-1
    acme: {email: admin@example.com, directory: 'https://127.0.0.1:14000/dir', ca_file: /srv/ca.pem}
`, publicName), 0o600)
	return func(more ...string) *harness.Process {
		t.Helper()
		args := []string{"sh", "-c", `echo $$ >/srv/pid; exec "$@"`, "sh"}
		args = append(args, "threshold", "start", "--config", "/srv/threshold.yaml")
		return container.Start(nil, append(args, more...)...)
	}
}

// startPebble builds the ACME authority and runs it in the container.
func startPebble(t *testing.T, container *harness.Container, a *webAuthority) {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "pebble")
	const pebble = "github.com/letsencrypt/pebble/v2/cmd/pebble"
	if out, err := harness.Build("go", "build", "-modfile=../tools.mod", "-o", bin, pebble); err != nil {
		t.Fatalf("build pebble: %v\n%s", err, out)
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	container.Put("/usr/local/bin/pebble", program, 0o755)
	cert, key := a.issue(t, "127.0.0.1")
	container.Put("/srv/ca.pem", a.pem(), 0o644)
	container.Put("/srv/pebble.pem", cert, 0o644)
	container.Put("/srv/pebble.key", key, 0o600)
	config, err := json.Marshal(map[string]any{
		"pebble": map[string]any{
			"listenAddress":           "127.0.0.1:14000",
			"managementListenAddress": "127.0.0.1:15000",
			"certificate":             "/srv/pebble.pem",
			"privateKey":              "/srv/pebble.key",
			"httpPort":                80,
			"tlsPort":                 443,
			"retryAfter":              map[string]int{"authz": 3, "order": 5},
			"profiles": map[string]any{
				"default": map[string]any{"description": "for ninety days", "validityPeriod": 7776000},
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	container.Put("/srv/pebble.json", config, 0o600)
	container.Start([]string{"PEBBLE_VA_NOSLEEP=1"}, "pebble", "-config", "/srv/pebble.json").
		WaitFor("ACME directory available")
}

// pebbleRoots asks the ACME authority for its root, which it generates at its start.
func pebbleRoots(t *testing.T, container *harness.Container, a *webAuthority) *x509.CertPool {
	t.Helper()
	client := &http.Client{
		Transport: &http.Transport{
			DialContext:       container.Dial(nil),
			TLSClientConfig:   &tls.Config{RootCAs: a.pool()},
			DisableKeepAlives: true,
		},
	}
	resp, err := client.Get("https://127.0.0.1:15000/roots/0")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	root, err := io.ReadAll(resp.Body)
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(root) {
		t.Fatalf("got %q, %v, want a root", root, err)
	}
	return pool
}

// handshake connects to the public port with a server name, and returns the certificate without verifying it.
func handshake(t *testing.T, container *harness.Container, name, alpn string) (*x509.Certificate, error) {
	t.Helper()
	conn, err := container.Dial(nil)(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", "443"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tc := tls.Client(conn, &tls.Config{
		ServerName:         name,
		NextProtos:         []string{alpn},
		InsecureSkipVerify: true,
		MinVersion:         tls.VersionTLS12,
	})
	if err := tc.HandshakeContext(t.Context()); err != nil {
		return nil, err
	}
	return tc.ConnectionState().PeerCertificates[0], nil
}

// certificateFor is the certificate that a browser gets which asks for the name.
func certificateFor(t *testing.T, container *harness.Container, name string) *x509.Certificate {
	t.Helper()
	c, err := handshake(t, container, name, "http/1.1")
	if err != nil {
		t.Fatalf("%q: %v", name, err)
	}
	return c
}

func verifies(c *x509.Certificate, roots *x509.CertPool) bool {
	_, err := c.Verify(x509.VerifyOptions{Roots: roots})
	return err == nil
}
