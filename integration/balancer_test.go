//go:build integration

package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
)

// A real HAProxy ends TLS in front of the proxy, with a certificate of its own, and cuts what was silent for
// 5 s. People and machines come and go through it, inside WebSockets; the TLS of the cluster is inside those,
// and nobody in between can pass for its end.
func TestABalancerThatEndsTLSCarriesEverything(t *testing.T) {
	t.Parallel() // most of it is silence
	listen, front, unlisted, astray := harness.FreeAddr(
		t,
		"127.0.0.1",
	), harness.FreeAddr(
		t,
		"127.0.0.3",
	), harness.FreeAddr(
		t,
		"127.0.0.3",
	), harness.FreeAddr(
		t,
		"127.0.0.3",
	)
	foreign := harness.FreeAddr(t, "127.0.0.1")
	dir := t.TempDir()
	crt, ca := webCertificate(t, dir, "127.0.0.3")
	cfg := `global
  maxconn 200
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
  timeout tunnel 5s
`
	for i, l := range []struct{ front, back, source, more string }{
		{front, listen, balancer, "option forwardfor"},
		{unlisted, listen, "127.0.0.4", "http-request set-header X-Forwarded-For 203.0.113.9"},
		{astray, foreign, balancer, "option forwardfor"},
	} {
		cfg += fmt.Sprintf(
			"listen l%d\n  bind %s ssl crt %s\n  %s\n  server s %s ssl verify none source %s\n",
			i,
			l.front,
			crt,
			l.more,
			l.back,
			l.source,
		)
	}
	harness.Start(t, nil, "haproxy", "-db", "-f", harness.WriteFile(t, dir, "haproxy.cfg", cfg))
	provider := harness.StartProvider(t, "127.0.0.1", front)
	behind := []string{"transport: websocket", "websocket_keepalive: 1s", "balancers: [" + balancer + "/32]"}
	s := harness.StartServerFrom(
		t,
		dir,
		listen,
		harness.Bootstrap(t, provider, filepath.Join(dir, "seal.key")),
		"",
		append(behind, fmt.Sprintf("public: [%q]", front))...)
	harness.StartServerFrom(
		t,
		t.TempDir(),
		foreign,
		harness.Bootstrap(t, provider, filepath.Join(t.TempDir(), "seal.key")),
		"",
		append(behind, fmt.Sprintf("public: [%q]", astray))...)
	s.Proxy = front

	c := harness.NewClient(t)
	s.CAFile = ca // what browsers, and a first contact without a pin, see
	alice := c.FirstLogin(s, harness.Alice())
	node := harness.StartNode(t, front, c.Token("node"), "web-1")

	t.Run("a command that is silent for longer than the balancer's patience", func(t *testing.T) {
		if got := c.Tsh("ssh", "web-1", "sleep 8; echo still here").OK(t); strings.TrimSpace(
			got,
		) != "still here" {
			t.Errorf("got %q, want the command's last words", got)
		}
		if out := node.Process.Output(); strings.Contains(out, "tunnel ended") {
			t.Errorf("got a tunnel cut:\n%s", out)
		}
	})
	conf := harness.WriteFile(t, t.TempDir(), "ssh_config", c.Tsh("config").OK(t))
	ssh := []string{"-F", conf, "-o", "BatchMode=yes", harness.Account(t) + "@web-1." + harness.ClusterName}
	t.Run("stock OpenSSH by its ProxyCommand, silent too, and its input ends by itself", func(t *testing.T) {
		r := harness.Run(
			t,
			c.Env,
			strings.NewReader("hello"),
			"ssh",
			append(ssh, "cat; sleep 7; echo; exit 5")...)
		if r.Stdout != "hello\n" || r.Code != 5 {
			t.Errorf("got %+v, want hello and 5", r)
		}
	})
	t.Run("files go both ways", func(t *testing.T) {
		from, there, back := harness.WriteFile(
			t,
			t.TempDir(),
			"from",
			strings.Repeat("0123456789abcdef", 1<<18),
		), filepath.Join(
			t.TempDir(),
			"there",
		), filepath.Join(
			t.TempDir(),
			"back",
		)
		c.Tsh("scp", from, "web-1:"+there).OK(t)
		c.Tsh("scp", "web-1:"+there, back).OK(t)
		want, _ := os.ReadFile(from)
		if got, err := os.ReadFile(back); err != nil || string(got) != string(want) {
			t.Errorf("got %d bytes, %v, want the same %d", len(got), err, len(want))
		}
	})
	t.Run("people keep their address", func(t *testing.T) {
		if got := c.Tsh("ssh", "web-1", "echo", "$SSH_CLIENT").OK(t); !strings.HasPrefix(got, "127.0.0.1 ") {
			t.Errorf("got the session from %q, want from the client's 127.0.0.1", got)
		}
	})
	t.Run("who has a pin needs no web certificate", func(t *testing.T) {
		other := harness.NewClient(t)
		p := other.StartLogin("--proxy", front, "--pin", pinOf(t, c))
		page := harness.SignIn(t, s.Roots(t), p.Line("Open: "), alice.Email, alice.Password)
		if _, err := page.Submit(t.Context(), map[string]string{"code": harness.FreshCode(t, alice)}); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil {
			t.Fatalf("tsh login: %v\n%s", err, p.Output())
		}
		other.Tsh("ssh", "web-1", "true").OK(t)
	})
	t.Run("a peer that is not listed is not believed", func(t *testing.T) {
		c.UseRelay(front, unlisted)
		defer c.UseRelay(front, front)
		if got := c.Tsh("ssh", "web-1", "echo", "$SSH_CLIENT").OK(t); !strings.HasPrefix(got, "127.0.0.4 ") {
			t.Errorf("got the session from %q, want from 127.0.0.4, whatever it says", got)
		}
	})
	t.Run("another cluster behind the balancer is refused", func(t *testing.T) {
		c.UseRelay(front, astray)
		defer c.UseRelay(front, front)
		c.Tsh("ssh", "web-1", "true").Refused(t, "is not the cluster with sha256:")
		c.Tsh("ls").Refused(t, "is not the cluster with sha256:")
	})
	t.Run("ssh -J cannot come this way", func(t *testing.T) {
		host, port, _ := net.SplitHostPort(front)
		r := harness.Run(
			t,
			c.Env,
			nil,
			"ssh",
			"-F",
			conf,
			"-o",
			"BatchMode=yes",
			"-J",
			"anyone@"+net.JoinHostPort(host, port),
			harness.Account(t)+"@web-1",
			"true",
		)
		if r.Code == 0 {
			t.Errorf("got %+v, want no way for SSH through a balancer of HTTP", r)
		}
	})
}

// webCertificate makes a certificate for the address that nobody knows, as a file for HAProxy and one for
// those who are to trust it.
func webCertificate(t *testing.T, dir, ip string) (crt, ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses: []net.IP{
			net.ParseIP(ip),
		},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return harness.WriteFile(
			t,
			dir,
			"haproxy.pem",
			cert+string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
		), harness.WriteFile(
			t,
			dir,
			"haproxy-ca.pem",
			cert,
		)
}
