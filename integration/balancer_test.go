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

// A real HAProxy in front of the proxy ends TLS with a certificate of its own, and closes connections that
// were silent for 5 s. Users and machines connect through it inside WebSockets. The TLS of the cluster is
// inside the WebSockets, so nobody in between can act as the proxy.
func TestABalancerThatEndsTLSCarriesEverything(t *testing.T) {
	t.Parallel() // it mostly waits
	listen, front := harness.FreeAddr(t, "127.0.0.1"), harness.FreeAddr(t, "127.0.0.3")
	unlisted := harness.FreeAddr(t, "127.0.0.3") // leads to the proxy from an address that is no balancer's
	foreign := harness.FreeAddr(t, "127.0.0.1")  // a proxy of another cluster
	astray := harness.FreeAddr(t, "127.0.0.3")   // leads to that proxy
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
		const section = "listen l%d\n  bind %s ssl crt %s\n  %s\n  server s %s ssl verify none source %s\n"
		cfg += fmt.Sprintf(section, i, l.front, crt, l.more, l.back, l.source)
	}
	harness.Start(t, nil, "haproxy", "-db", "-f", harness.WriteFile(t, dir, "haproxy.cfg", cfg))
	provider := harness.StartProvider(t, "127.0.0.1", front)
	start := func(dir, listen, public string) *harness.Server {
		bootstrap := harness.Bootstrap(t, provider, filepath.Join(dir, "seal.key"))
		keys := []string{
			"transport: websocket",
			"websocket_keepalive: 1s",
			"balancers: [" + balancer + "/32]",
			fmt.Sprintf("public: [%q]", public),
		}
		return harness.StartServerFrom(t, dir, listen, bootstrap, "", keys...)
	}
	s := start(dir, listen, front)
	start(t.TempDir(), foreign, astray)
	s.Proxy = front

	c := harness.NewClient(t)
	s.CAFile = ca // for browsers, and for the first connection of tsh without a pin
	alice := c.FirstLogin(s, harness.Alice())
	node := harness.StartNode(t, front, c.Token("node"), "web-1")

	t.Run("a command that is silent for longer than the balancer's timeout", func(t *testing.T) {
		if got := c.Tsh("ssh", "web-1", "sleep 8; echo still here").OK(t); got != "still here\n" {
			t.Errorf("got %q, want the command's output", got)
		}
		if out := node.Process.Output(); strings.Contains(out, "tunnel ended") {
			t.Errorf("got the tunnel closed:\n%s", out)
		}
	})
	conf := harness.WriteFile(t, t.TempDir(), "ssh_config", c.Tsh("config").OK(t))
	ssh := []string{"-F", conf, "-o", "BatchMode=yes", harness.Account(t) + "@web-1." + harness.ClusterName}
	t.Run("OpenSSH with ProxyCommand, silent, its input ended before its output", func(t *testing.T) {
		args := append(ssh, "cat; sleep 7; echo; exit 5")
		r := harness.Run(t, c.Env, strings.NewReader("hello"), "ssh", args...)
		if r.Stdout != "hello\n" || r.Code != 5 {
			t.Errorf("got %+v, want hello and 5", r)
		}
	})
	t.Run("files are copied both ways", func(t *testing.T) {
		want := strings.Repeat("0123456789abcdef", 1<<18)
		local := harness.WriteFile(t, t.TempDir(), "local", want)
		remote, back := filepath.Join(t.TempDir(), "remote"), filepath.Join(t.TempDir(), "back")
		c.Tsh("scp", local, "web-1:"+remote).OK(t)
		c.Tsh("scp", "web-1:"+remote, back).OK(t)
		if got, err := os.ReadFile(back); err != nil || string(got) != want {
			t.Errorf("got %d bytes, %v, want the same %d", len(got), err, len(want))
		}
	})
	t.Run("the node sees the user's address", func(t *testing.T) {
		if got := c.Tsh("ssh", "web-1", "echo", "$SSH_CLIENT").OK(t); !strings.HasPrefix(got, "127.0.0.1 ") {
			t.Errorf("got the session from %q, want from the client's 127.0.0.1", got)
		}
	})
	t.Run("a user with the pin needs no web certificate", func(t *testing.T) {
		other := harness.NewClient(t)
		p := other.StartLogin("--proxy", front, "--pin", pinOf(t, c))
		page := harness.SignIn(t, s.Roots(t), p.Line("Open: "), alice.Email, alice.Password)
		code := map[string]string{"code": harness.FreshCode(t, alice)}
		if _, err := page.Submit(t.Context(), code); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil {
			t.Fatalf("tsh login: %v\n%s", err, p.Output())
		}
		other.Tsh("ssh", "web-1", "true").OK(t)
	})
	t.Run("X-Forwarded-For of a peer that is no listed balancer is ignored", func(t *testing.T) {
		c.UseRelay(unlisted)
		defer c.UseRelay(front)
		if got := c.Tsh("ssh", "web-1", "echo", "$SSH_CLIENT").OK(t); !strings.HasPrefix(got, "127.0.0.4 ") {
			t.Errorf("got the session from %q, want from the peer 127.0.0.4", got)
		}
	})
	t.Run("another cluster behind the balancer is refused", func(t *testing.T) {
		c.UseRelay(astray)
		defer c.UseRelay(front)
		c.Tsh("ssh", "web-1", "true").Refused(t, "is not the cluster with sha256:")
		c.Tsh("ls").Refused(t, "is not the cluster with sha256:")
	})
	t.Run("ssh -J fails, because the balancer passes HTTP only", func(t *testing.T) {
		args := []string{"-F", conf, "-o", "BatchMode=yes", "-J", "anyone@" + front}
		args = append(args, harness.Account(t)+"@web-1", "true")
		if r := harness.Run(t, c.Env, nil, "ssh", args...); r.Code == 0 {
			t.Errorf("got %+v, want a failure", r)
		}
	})
}

// webCertificate makes a self-signed certificate for the address. crt is a file with its key for HAProxy,
// ca a file for those who are to trust it.
func webCertificate(t *testing.T, dir, ip string) (crt, ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.ParseIP(ip)},
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
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	crt = harness.WriteFile(t, dir, "haproxy.pem", cert+private)
	return crt, harness.WriteFile(t, dir, "haproxy-ca.pem", cert)
}
