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

// publicName is what browsers call the proxy; the room's own hosts file stands in for a name server.
const publicName = "access.example.com"

// A real ACME authority (pebble) proves the proxy's name by TLS-ALPN-01 on the public port and issues. It
// shares a room with the server, because it goes where the name leads, to port 443.
func TestTheProxyGetsItsWebCertificateByACME(t *testing.T) {
	room := harness.NewContainer(t, "proxy-1")
	room.Run("rm", "-f", "/etc/hosts").OK(t)
	room.Put("/etc/hosts", []byte("127.0.0.1 localhost proxy-1 "+publicName+"\n"), 0o644)
	a := newWebAuthority(t)
	startPebble(t, room, a)
	start := startACMEServer(t, room)
	server := start("--bootstrap", "/srv/birth.yaml")
	server.WaitFor(`msg="web certificate from the ACME authority"`)
	roots := pebbleRoots(t, room, a)

	first := certificateFor(t, room, publicName)
	t.Run("browsers trust it", func(t *testing.T) {
		page, err := formbrowser.New(roots, "").
			DialWith(room.Dial(map[string]string{publicName: "127.0.0.1"})).
			Open(t.Context(), "https://"+publicName+"/")
		if err != nil || page.Status != http.StatusOK {
			t.Errorf("got %+v, %v, want the proxy's page", page, err)
		}
	})
	t.Run("whoever comes by another name gets the cluster's own", func(t *testing.T) {
		for _, name := range []string{"", "other.example.com"} {
			if got := certificateFor(t, room, name); got.Equal(first) || verifies(got, roots) {
				t.Errorf("%q: got %v, want the proxy's own certificate", name, got.Subject)
			}
		}
	})
	t.Run("a challenge that nobody waits for is answered by nothing", func(t *testing.T) {
		for _, name := range []string{publicName, "other.example.com", ""} {
			if _, err := handshake(t, room, name, "acme-tls/1"); err == nil {
				t.Errorf("%q: got a handshake, want it refused", name)
			}
		}
	})
	t.Run("keys are the server's alone, and a restart orders nothing", func(t *testing.T) {
		out := room.Run("find", "/srv/data/proxy/acme", "-type", "f", "-printf", "%m %f\n").OK(t)
		if !strings.Contains(out, "600 "+publicName) || !strings.Contains(out, "600 acme_account+key") {
			t.Errorf("got %q, want account and certificate for the server alone", out)
		}
		for line := range strings.Lines(out) {
			if !strings.HasPrefix(line, "600 ") {
				t.Errorf("got %q, want mode 600", line)
			}
		}
		room.Run("sh", "-c", "kill -TERM $(cat /srv/pid)").OK(t)
		if err := server.Wait(); err != nil {
			t.Fatal(err)
		}
		start().WaitFor(`msg="web certificate from the ACME authority"`)
		if got := certificateFor(t, room, publicName); !got.Equal(first) {
			t.Errorf(
				"got serial %s after a restart, want %s from the disk",
				got.SerialNumber,
				first.SerialNumber,
			)
		}
	})
}

// startACMEServer writes the server's files into the room and returns how to start it.
func startACMEServer(t *testing.T, room *harness.Container) func(more ...string) *harness.Process {
	t.Helper()
	bin, err := os.ReadFile(harness.Bin(t, "threshold"))
	if err != nil {
		t.Fatal(err)
	}
	room.Put("/usr/local/bin/threshold", bin, 0o755)
	birth := harness.Bootstrap(
		t,
		harness.Provider{Issuer: "http://127.0.0.1:1", ClientID: "threshold", ClientSecret: "secret"},
		"/srv/seal.key",
	)
	room.Put("/srv/birth.yaml", []byte(birth), 0o600)
	room.Put("/srv/threshold.yaml", fmt.Appendf(nil, `kind: server
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
		args := append(
			[]string{
				"sh",
				"-c",
				`echo $$ >/srv/pid; exec "$@"`,
				"sh",
				"threshold",
				"start",
				"--config",
				"/srv/threshold.yaml",
			},
			more...)
		return room.Start(nil, args...)
	}
}

// startPebble builds and runs the authority in the room.
func startPebble(t *testing.T, room *harness.Container, a *webAuthority) {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "pebble")
	if out, err := harness.Build("go", "build", "-modfile=../tools.mod", "-o", bin, "github.com/letsencrypt/pebble/v2/cmd/pebble"); err != nil {
		t.Fatalf("build pebble: %v\n%s", err, out)
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	room.Put("/usr/local/bin/pebble", program, 0o755)
	cert, key := a.issue(t, "127.0.0.1")
	room.Put("/srv/ca.pem", a.pem(), 0o644)
	room.Put("/srv/pebble.pem", cert, 0o644)
	room.Put("/srv/pebble.key", key, 0o600)
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
	room.Put("/srv/pebble.json", config, 0o600)
	room.Start([]string{"PEBBLE_VA_NOSLEEP=1"}, "pebble", "-config", "/srv/pebble.json").
		WaitFor("ACME directory available")
}

// pebbleRoots asks the authority for the root it made up.
func pebbleRoots(t *testing.T, room *harness.Container, a *webAuthority) *x509.CertPool {
	t.Helper()
	client := &http.Client{
		Transport: &http.Transport{
			DialContext:       room.Dial(nil),
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

// handshake comes to the public port by a name and looks at what is shown, whoever vouches for it.
func handshake(t *testing.T, room *harness.Container, name, alpn string) (*x509.Certificate, error) {
	t.Helper()
	conn, err := room.Dial(nil)(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", "443"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tc := tls.Client(
		conn,
		&tls.Config{
			ServerName:         name,
			NextProtos:         []string{alpn},
			InsecureSkipVerify: true,
			MinVersion:         tls.VersionTLS12,
		},
	)
	if err := tc.HandshakeContext(t.Context()); err != nil {
		return nil, err
	}
	return tc.ConnectionState().PeerCertificates[0], nil
}

// certificateFor is the certificate that a browser which asks for the name is shown.
func certificateFor(t *testing.T, room *harness.Container, name string) *x509.Certificate {
	t.Helper()
	c, err := handshake(t, room, name, "http/1.1")
	if err != nil {
		t.Fatalf("%q: %v", name, err)
	}
	return c
}

func verifies(c *x509.Certificate, roots *x509.CertPool) bool {
	_, err := c.Verify(x509.VerifyOptions{Roots: roots})
	return err == nil
}
