//go:build integration

package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/oidc/oidctest"
	"github.com/threshold-access/threshold/integration/harness"
	"github.com/threshold-access/threshold/internal/formbrowser"
)

// addresses are the host names in the guide. auth and the proxy share an inner network; the proxy, the
// node, the laptop and the identity provider share an outer one. Nothing routes between the two: the node
// can reach auth only through the proxy.
var addresses = map[string]string{"access.example.com": "203.0.113.20", "login.example.com": "203.0.113.5"}

// guideRun is one run of docs/install.md.
type guideRun struct {
	t          *testing.T
	containers map[string]*harness.Container // by the machine's name in the guide
	systemd    map[string]*harness.Systemd
	roots      *x509.CertPool
	token      string // the one that was printed last
	recipient  string // of the administrator's age identity
	printed    string // by the last command
	enrolled   harness.User
}

// The commands of docs/install.md are run exactly as they are printed there, with three exceptions. A token
// and a recipient of age are pasted where the guide says so; harness.Systemd stands in for systemctl, because
// no service manager runs in a container; and the test opens the page that tsh prints, because the laptop has
// no desktop.
func TestTheInstallationGuideWorksAsWritten(t *testing.T) {
	g := &guideRun{t: t, containers: map[string]*harness.Container{}, systemd: map[string]*harness.Systemd{}}
	g.build()
	_, g.recipient = harness.NewRootIdentity(t)
	text, err := os.ReadFile("../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```sh (\\w+)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 8 {
		t.Fatalf("got %d blocks of commands, want the whole guide", len(blocks))
	}
	for _, b := range blocks {
		for _, command := range commands(b[2]) {
			start := time.Now()
			g.runTyped(b[1], command)
			t.Logf("%.1fs on %s: %s", time.Since(start).Seconds(), b[1], strings.SplitN(command, "\n", 2)[0])
		}
	}
	g.waitForReconnect()
	g.isReady("auth", "auth")
	g.isReady("proxy", "proxy")
	got := g.containers["node"].Run("ss", "-tulnH", "state", "listening").OK(t)
	if strings.TrimSpace(got) != "" {
		t.Errorf("got %q, want a node that listens on nothing", got)
	}
	for _, name := range []string{"auth", "proxy"} {
		if got := g.containers[name].Run("sh", "-c", findExposed).OK(t); got != "" {
			t.Errorf("%s: got %q, want data that only the server can read", name, got)
		}
		g.systemd[name].Do("stop", "threshold")
	}
	g.systemd["node"].Do("stop", "threshold-node")
}

// findExposed prints what in the server's folder is not the server's alone.
const findExposed = "find /var/lib/threshold ! -user threshold; " +
	"find /var/lib/threshold -maxdepth 0 ! -perm 700"

// waitForReconnect waits until the node has reconnected to the restarted proxy.
func (g *guideRun) waitForReconnect() {
	g.t.Helper()
	harness.Eventually(g.t, "the node serves sessions after the proxy's restart", func() bool {
		r := g.containers["laptop"].Run("tsh", "ssh", "ubuntu@web-1", "id -un")
		return r.Code == 0 && strings.TrimSpace(r.Stdout) == "ubuntu"
	})
}

// commands splits a block into commands: one line each, with the lines that a backslash continues and its
// here document.
func commands(block string) (out []string) {
	end, continued := "", false
	for line := range strings.Lines(block) {
		wasContinued := continued
		continued = strings.HasSuffix(line, "\\\n")
		if wasContinued {
			out[len(out)-1] += line
			continue
		}
		if end != "" {
			out[len(out)-1] += line
			if strings.TrimSpace(line) == end {
				end = ""
			}
			continue
		}
		out = append(out, line)
		if _, mark, ok := strings.Cut(line, "<<'"); ok {
			end, _, _ = strings.Cut(mark, "'")
		}
	}
	return out
}

// runTyped runs one command of the guide on a machine.
func (g *guideRun) runTyped(machine, command string) {
	g.t.Helper()
	container := g.containers[machine]
	if container == nil {
		g.t.Fatalf("the guide runs %q on %q, which it does not introduce", command, machine)
	}
	words := strings.Fields(command)
	switch {
	case words[0] == "systemctl":
		g.systemd[machine].Do(words[1:]...)
		return
	case strings.HasPrefix(command, "tsh login "):
		g.login(container, words)
		return
	}
	if strings.Contains(command, "PASTE THE TOKEN HERE") {
		if g.token == "" {
			g.t.Fatal("the guide wants a token pasted, and none was printed")
		}
		command, g.token = strings.Replace(command, "PASTE THE TOKEN HERE", g.token, 1), ""
	}
	command = strings.Replace(command, "age1PASTE-YOUR-RECIPIENT-HERE", g.recipient, 1)
	r := container.Run("bash", "-c", "set -e\n"+command)
	g.printed = r.OK(g.t)
	if token := regexp.MustCompile(`thjoin1\.[A-Za-z0-9._-]+`).FindString(g.printed); token != "" {
		g.token = token
	}
}

// login runs tsh login and acts as the user in front of the browser.
func (g *guideRun) login(container *harness.Container, words []string) {
	g.t.Helper()
	p := container.Start(nil, words...)
	browser := formbrowser.New(g.roots, "").DialWith(container.Dial(addresses))
	page, err := browser.Open(g.t.Context(), p.Line("Open: "))
	if err != nil {
		g.t.Fatal(err)
	}
	alice := harness.Alice()
	form := map[string]string{"login": alice.Email, "password": alice.Password}
	if page, err = page.Submit(g.t.Context(), form); err != nil {
		g.t.Fatal(err)
	}
	if g.enrolled, page = harness.Enrol(g.t, page, alice); g.enrolled.TOTPSecret == "" {
		g.t.Fatal("got no second factor")
	}
	if _, err := page.Follow(g.t.Context(), "continue"); err != nil {
		g.t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		g.t.Fatalf("tsh login: %v\n%s", err, p.Output())
	}
}

// isReady fails the test unless the component is ready by the machine's own /readyz.
func (g *guideRun) isReady(machine, component string) {
	g.t.Helper()
	client := &http.Client{
		Transport: &http.Transport{DialContext: g.containers[machine].Dial(nil), DisableKeepAlives: true},
	}
	resp, err := client.Get("http://127.0.0.1:3080/readyz")
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if want := `{"name":"` + component + `","ready":true}`; err != nil || resp.StatusCode != http.StatusOK ||
		!strings.Contains(string(body), want) {
		g.t.Errorf("%s: got %d %s, %v, want %s", machine, resp.StatusCode, body, err, want)
	}
}

// build creates the machines, their networks, the identity provider, and everything else that the guide
// expects to be there.
func (g *guideRun) build() {
	debs := harness.Packages(g.t, "v1.2.3", runtime.GOARCH)
	authority := newWebAuthority(g.t)
	g.roots = authority.pool()
	hosts := map[string]string{"auth": "auth-1", "proxy": "proxy-1", "node": "web-1", "laptop": "laptop"}
	for name, host := range hosts {
		container := harness.NewContainer(g.t, host)
		g.containers[name], g.systemd[name] = container, container.Systemd()
		hostsFile := "127.0.0.1 localhost " + host + "\n"
		for n, ip := range addresses {
			hostsFile += ip + " " + n + "\n"
		}
		container.Run("rm", "-f", "/etc/hosts", "/usr/bin/xdg-open").OK(g.t) // no DNS and no desktop
		container.Put("/etc/hosts", []byte(hostsFile), 0o644)
		container.Put("/usr/local/share/ca-certificates/story.crt", authority.pem(), 0o644)
		trust := "cat /usr/local/share/ca-certificates/story.crt >>/etc/ssl/certs/ca-certificates.crt"
		container.Run("sh", "-c", trust).OK(g.t)
		for p, file := range debs {
			deb, err := os.ReadFile(file)
			if err != nil {
				g.t.Fatal(err)
			}
			container.Put(filepath.Join("/root", p+"_1.2.3_"+runtime.GOARCH+".deb"), deb, 0o644)
		}
	}
	g.connectNetworks()
	cert, key := authority.issue(g.t, "access.example.com")
	g.containers["proxy"].Put("/root/access.example.com.pem", cert, 0o644)
	g.containers["proxy"].Put("/root/access.example.com.key", key, 0o600)
	g.startProvider(authority)
}

// connectNetworks creates the networks.
func (g *guideRun) connectNetworks() {
	auth, proxy := g.containers["auth"], g.containers["proxy"]
	node, laptop := g.containers["node"], g.containers["laptop"]
	laptop.Run("ip", "link", "add", "outside", "type", "bridge").OK(g.t)
	laptop.Run("ip", "link", "set", "outside", "up").OK(g.t)
	laptop.Run("ip", "addr", "add", "203.0.113.5/24", "dev", "outside").OK(g.t)
	for name, container := range map[string]*harness.Container{"to-proxy": proxy, "to-node": node} {
		laptop.Connect(name, container, "outside")
		laptop.Run("ip", "link", "set", name, "master", "outside").OK(g.t)
	}
	proxy.Run("ip", "addr", "add", "203.0.113.20/24", "dev", "outside").OK(g.t)
	node.Run("ip", "addr", "add", "203.0.113.30/24", "dev", "outside").OK(g.t)
	auth.Connect("inside", proxy, "inside")
	auth.Run("ip", "addr", "add", "10.20.0.10/24", "dev", "inside").OK(g.t)
	proxy.Run("ip", "addr", "add", "10.20.0.20/24", "dev", "inside").OK(g.t)
	auth.Connect("egress", laptop, "to-auth") // to the provider only
	auth.Run("ip", "addr", "add", "198.51.100.2/30", "dev", "egress").OK(g.t)
	laptop.Run("ip", "addr", "add", "198.51.100.1/30", "dev", "to-auth").OK(g.t)
	auth.Run("ip", "route", "add", "203.0.113.5/32", "via", "198.51.100.1").OK(g.t)
}

// startProvider runs the identity provider that the bootstrap file of the guide names.
func (g *guideRun) startProvider(authority *webAuthority) {
	const issuer = "https://login.example.com"
	provider, err := oidctest.New(oidctest.Config{
		Issuer: issuer,
		Clients: []oidctest.Client{{
			ID:        "threshold",
			Secret:    "the secret from your provider",
			Redirects: []string{harness.CallbackURL("access.example.com", "corp")},
		}},
		Users: []oidctest.User{{Email: harness.Alice().Email, Password: harness.Password, Subject: "alice"}},
	})
	if err != nil {
		g.t.Fatal(err)
	}
	cert, key := authority.issue(g.t, "login.example.com")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		g.t.Fatal(err)
	}
	l := g.containers["laptop"].Listen(net.JoinHostPort(addresses["login.example.com"], "443"))
	cfg := &tls.Config{
		Certificates: []tls.Certificate{pair},
		NextProtos:   []string{"http/1.1"},
		MinVersion:   tls.VersionTLS12,
	}
	harness.Serve(g.t, tls.NewListener(l, cfg), provider)
}

// webAuthority issues TLS server certificates that the machines trust.
type webAuthority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newWebAuthority(t *testing.T) *webAuthority {
	t.Helper()
	a := &webAuthority{key: newKey(t)}
	a.cert = a.sign(t, &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "Web authority of the test"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}, a.key)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *webAuthority) sign(t *testing.T, c *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := a.cert
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// issue returns a certificate for a host name or an IP address, and its key, both as PEM.
func (a *webAuthority) issue(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	k := newKey(t)
	c := a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		DNSNames:     []string{name},
		IPAddresses:  addressOf(name),
	}, k)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func addressOf(name string) []net.IP {
	if ip := net.ParseIP(name); ip != nil {
		return []net.IP{ip}
	}
	return nil
}

func (a *webAuthority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *webAuthority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}
